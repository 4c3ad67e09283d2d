//! Sessions belong to users (A3).

use harness::{Connect, packet};

use crate::world::{World, world};

/// A session of alice with a subscription and a message in its queue.
fn with_a_session(toml: &str) -> World {
    let world = world(&format!("allow_anonymous = true\n{toml}"));
    let mut alice = world.accepts(&of_alice());
    alice.send(&packet("82", "m1 s'a/t' 01"));
    alice.expect("90 03 m1 01");
    alice.disconnect();
    let mut publisher = world.accepts(&Connect::v4("p"));
    publisher.send(&packet("32", "s'a/t' m1 'x'"));
    publisher.expect("40 02 m1");
    world
}

fn of_alice() -> Connect {
    Connect::v4("device")
        .clean(false)
        .username("alice")
        .password("secret")
}

fn her_session_is_there(world: &World) {
    let mut alice = world.accepts(&of_alice());
    alice.expect_bytes(&packet("32", "s'a/t' m1 'x'"));
}

#[test]
fn another_user_neither_resumes_nor_ends_a_session() {
    let world = with_a_session("");
    for clean in [false, true] {
        let of = |connect: Connect| connect.clean(clean);
        world.refuses(&of(Connect::v4("device").username("ivy").password("s")));
        world.refuses(&of(Connect::v5("device").username("ivy").password("s")));
        world.refuses(&of(Connect::v4("device")));
    }
    her_session_is_there(&world);
}

#[test]
fn a_login_that_fails_touches_no_session() {
    let world = with_a_session("");
    for clean in [false, true] {
        world.refuses(
            &Connect::v4("device")
                .clean(clean)
                .username("alice")
                .password("x"),
        );
        world.refuses(
            &Connect::v4("device")
                .clean(clean)
                .username("zoe")
                .password("x"),
        );
    }
    her_session_is_there(&world);
}

#[test]
fn a_connected_client_is_not_disturbed_by_another_user() {
    let world = world("");
    let mut alice = world.accepts(&of_alice());
    world.refuses(&Connect::v4("device").username("ivy").password("s"));
    world.refuses(&Connect::v4("device").username("alice").password("x"));
    alice.expect_nothing_until_pingresp();
}

#[test]
fn a_session_stays_with_its_user_over_a_restart() {
    let directory = harness::TemporaryDirectory::new("users-data");
    let data = format!("data_directory = {:?}", directory.path());
    let mut world = with_a_session(&data);
    world.broker.terminate();
    let users = std::fs::read_to_string(world.passwords()).unwrap();
    let world = crate::world::world_of(&users, &format!("allow_anonymous = true\n{data}"));
    world.refuses(&Connect::v4("device").username("ivy").password("s"));
    world.refuses(&Connect::v4("device"));
    her_session_is_there(&world);
}

#[test]
fn what_nobody_made_somebody_may_take() {
    let world = world("allow_anonymous = true");
    world
        .accepts(&Connect::v4("device").clean(false))
        .disconnect();
    let alice = world.accepts(&of_alice());
    drop(alice);
    world.refuses(&Connect::v4("device").clean(false));
}

#[test]
fn in_the_way_of_mosquitto_the_client_id_is_the_session() {
    let world = with_a_session("session_bound_to_user = false");
    let ivy = Connect::v4("device")
        .clean(false)
        .username("ivy")
        .password("s");
    let mut ivy = world.accepts(&ivy);
    ivy.expect_bytes(&packet("32", "s'a/t' m1 'x'"));
}

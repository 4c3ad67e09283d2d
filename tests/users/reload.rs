//! SIGHUP and the password file: who is gone has to go, who is not stays, and a bad file changes nothing.

use std::fs;

use harness::Connect;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{ALICE, IVY, World, world};

fn login(user: &str, password: &str) -> Connect {
    Connect::v5(user).username(user).password(password)
}

fn reload(world: &mut World, end: &str) {
    let id = world.broker.process_id().unwrap();
    let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    kill_process(id, Signal::HUP).unwrap();
    world.broker.wait_for_log(end);
}

#[test]
fn after_sighup_only_those_have_to_go_whose_user_is_gone() {
    let mut world = world("");
    let mut alice = world.accepts(&login("alice", "secret"));
    let mut ivy = world.accepts(&login("ivy", "s"));
    fs::write(world.passwords(), ALICE).unwrap();
    reload(&mut world, "Config reloaded.");
    // Administrative action.
    ivy.expect("e0 01 98");
    ivy.expect_close();
    alice.expect_nothing_until_pingresp();
    world
        .broker
        .wait_for_log("disconnected, not authorised (user 'ivy'");
    world.refuses(&login("ivy", "s"));
}

#[test]
fn a_bad_file_at_sighup_is_told_and_changes_nothing() {
    let mut world = world("");
    let mut ivy = world.accepts(&login("ivy", "s"));
    fs::write(world.passwords(), format!("{ALICE}bob:geheim\n{IVY}x\n")).unwrap();
    reload(&mut world, "The config was not reloaded");
    let log = world.broker.log();
    assert!(log.contains("passwd:2: user 'bob'"), "{log}");
    assert!(!log.contains("geheim"), "{log}");
    ivy.expect_nothing_until_pingresp();
    world.accepts(&login("alice", "secret"));
}

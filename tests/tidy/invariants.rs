//! The invariants of ARCHITECTURE.md and the rules of the house style that are absences, and so can be searched for.

use crate::source::{SourceFile, files, names, none_of, root};

#[test]
fn only_the_clock_tells_time() {
    let clocks = [
        "broker/src/clock.rs",
        "esp32-client/device/src/clock.rs",
        "esp32-client/host/src/clock.rs",
    ];
    let exempt = ["tests", "loadtest"];
    let rule = |file: &SourceFile| {
        file.is_rust()
            && !clocks.contains(&file.path.as_str())
            && !exempt.iter().any(|room| file.is_in(room))
            && !file.path.contains("/benches/")
            && !file.path.contains("/tests/")
    };
    absent(
        "only the clocks tell time, of the broker, of a chip and of the device on a computer",
        rule,
        &["Instant::now", "SystemTime::now"],
        &[],
    );
}

#[test]
fn the_pure_rooms_neither_wait_nor_reach_out() {
    let words = [
        "tokio",
        "std::net",
        "std::fs",
        "std::io",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "async",
        "await",
    ];
    absent(
        "session, exchange and shard do no I/O, read no clock and never wait (D15)",
        is_pure,
        &words,
        // A slice to be written is a value; writing it is not done there.
        &["std::io::IoSlice"],
    );
}

#[test]
fn the_codec_needs_no_std() {
    let files = files();
    let library = files
        .iter()
        .find(|file| file.path == "codec/src/lib.rs")
        .expect("codec/src/lib.rs exists");
    let first = library
        .code_lines()
        .find(|(_, line)| line.contains("no_std"));
    assert!(first.is_some(), "codec/src/lib.rs must say no_std");
    absent(
        "codec is no_std",
        |file| file.is_in("codec/src"),
        &["std::"],
        &["core::", "alloc::"],
    );
}

#[test]
fn rooms_point_one_way() {
    // What stands right may use what stands left.
    let rooms = [
        "session",
        "exchange",
        "shard",
        "transport",
        "connection",
        "listener",
        "server",
    ];
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| file.is_rust()) {
        let Some(own) = rooms
            .iter()
            .position(|room| file.is_in(&format!("broker/src/{room}")))
        else {
            continue;
        };
        let text: Vec<&str> = file.shipped_lines().map(|(_, line)| line).collect();
        for room in rooms_used(&text.join("\n")) {
            if rooms[own + 1..].contains(&room.as_str()) {
                broken.push(format!("{}: {} uses {room}", file.path, rooms[own]));
            }
        }
    }
    none_of(
        "session <- exchange <- shard <- transport <- connection <- listener <- server",
        &broken,
    );
}

#[test]
fn a_room_is_found_however_it_is_named() {
    let text = "use crate::shard;\nuse crate::{\n    clock::{self, Now},\n    listener::Accept,\n};\nlet x = crate::server::run();";
    assert_eq!(rooms_used(text), ["shard", "clock", "listener", "server"]);
}

#[test]
fn the_left_hand_crates_do_not_know_the_right_hand_ones() {
    let arrows = [
        (
            "codec",
            &[
                "nightjar-storage",
                "nightjar-acl",
                "nightjar ",
                "nightjar.workspace",
            ][..],
        ),
        (
            "acl",
            &["nightjar ", "nightjar.workspace", "nightjar-storage"][..],
        ),
        ("storage", &["nightjar ", "nightjar.workspace"][..]),
        (
            "loadtest",
            &["nightjar ", "nightjar.workspace", "nightjar-storage"][..],
        ),
    ];
    let mut broken = Vec::new();
    for (room, forbidden) in arrows {
        let path = format!("{room}/Cargo.toml");
        let files = files();
        let manifest = files
            .iter()
            .find(|file| file.path == path)
            .expect("the crate has a manifest");
        let dependencies = manifest
            .text
            .lines()
            .skip_while(|line| !line.contains("dependencies]"));
        for line in dependencies.filter(|line| forbidden.iter().any(|name| line.starts_with(name)))
        {
            broken.push(format!("{path}: {line}"));
        }
    }
    none_of(
        "codec <- {acl, storage} <- broker <- tests; codec <- loadtest",
        &broken,
    );
}

#[test]
fn each_foreign_thing_is_known_by_one_room() {
    let owners = [
        (
            "redb",
            &[
                "storage/src/redb.rs",
                "storage/src/redb",
                "storage/src/lib.rs",
                "storage/benches",
            ][..],
        ),
        (
            "rustls",
            &[
                "certs",
                "broker/src/transport/tls.rs",
                "loadtest/src/tls.rs",
            ][..],
        ),
        (
            "prometheus",
            &["broker/src/metrics.rs", "broker/src/metrics"][..],
        ),
    ];
    for (name, rooms) in owners {
        let uses = [format!("{name}::"), format!("use {name}")];
        let uses: Vec<&str> = uses.iter().map(String::as_str).collect();
        let elsewhere = |file: &SourceFile| {
            file.is_rust()
                && !file.is_in("tests")
                && !rooms
                    .iter()
                    .any(|room| file.path == *room || file.is_in(room))
        };
        absent(
            &format!("only {rooms:?} know {name}"),
            elsewhere,
            &uses,
            &["self::", "crate::", "mod "],
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    let broken: Vec<String> = files()
        .iter()
        .filter(|file| {
            file.is_rust()
                && !file
                    .text
                    .trim_start_matches("#![no_main]\n")
                    .starts_with("//!")
        })
        .map(|file| file.path.clone())
        .collect();
    none_of("every .rs file opens with //!", &broken);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = ["ignore]", "ignore =", "todo!", "unimplemented!", "dbg!"];
    let rule = |file: &SourceFile| file.is_rust() && !file.is_in("tests/tidy");
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| rule(file)) {
        for (number, line) in file.code_lines() {
            let ignored = line.trim_start().starts_with("#[ignore");
            if ignored || marks[2..].iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none_of("no #[ignore], todo!, unimplemented! or dbg!", &broken);
}

#[test]
fn no_file_is_too_long_to_read() {
    const LINES_MAX: usize = 900;
    let broken: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust() && file.text.lines().count() > LINES_MAX)
        .map(|file| format!("{}: {} lines", file.path, file.text.lines().count()))
        .collect();
    none_of("no file has more than 900 lines", &broken);
}

#[test]
fn a_panic_can_be_contained() {
    let broken: Vec<String> = manifests()
        .iter()
        .flat_map(|file| {
            file.text
                .lines()
                .map(|line| (file.path.clone(), line.replace(' ', "")))
        })
        .filter(|(_, line)| line.starts_with("panic=\"abort\""))
        .map(|(path, line)| format!("{path}: {line}"))
        .collect();
    none_of(
        "a panic ends one connection, so it must unwind (D18)",
        &broken,
    );
}

#[test]
fn unsafe_is_forbidden_everywhere() {
    let manifests = manifests();
    let workspace = manifests
        .iter()
        .find(|file| file.path == "Cargo.toml")
        .expect("the workspace has a manifest");
    assert!(
        workspace.text.contains("unsafe_code = \"forbid\""),
        "Cargo.toml must forbid unsafe code"
    );
    // Registers of a chip and what C calls cannot do without; each use says why it is sound.
    let chips = ["esp32-client/firmware", "esp32-client/qemu"];
    let broken: Vec<String> = manifests
        .iter()
        .filter(|file| file.text.contains("[package]") && !file.path.contains("/fuzz/"))
        .filter(|file| !chips.iter().any(|chip| file.is_in(chip)))
        .filter(|file| {
            let alone = file.is_in("esp32-client");
            let has_own = alone && file.text.contains("unsafe_code = \"forbid\"");
            !has_own && !file.text.contains("[lints]\nworkspace = true")
        })
        .map(|file| file.path.clone())
        .collect();
    none_of(
        "every crate takes the lints of the workspace, or forbids unsafe code where it is none of it",
        &broken,
    );
    let unsaid: Vec<String> = files()
        .iter()
        .filter(|file| file.is_rust() && chips.iter().any(|chip| file.is_in(chip)))
        .flat_map(unsafe_without_a_reason)
        .collect();
    none_of("every unsafe has its SAFETY line above it", &unsaid);
}

/// Where `unsafe` stands with no `SAFETY:` in the comment before it.
fn unsafe_without_a_reason(file: &SourceFile) -> Vec<String> {
    let mut said = false;
    let mut broken = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if line.contains("// SAFETY:") {
            said = true;
        } else if names(code, "unsafe") && !said {
            broken.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
        } else if code.contains([';', '}']) {
            said = false;
        }
    }
    broken
}

#[test]
fn every_setting_is_documented() {
    let files = files();
    let settings = files
        .iter()
        .find(|file| file.path == "broker/src/settings.rs")
        .expect("broker/src/settings.rs exists");
    let manual = files
        .iter()
        .find(|file| file.path == "docs/configuration.md");
    let mut broken = Vec::new();
    let mut previous = "";
    let mut inside = false;
    for line in settings.text.lines() {
        inside = (inside && line != "}") || line == "pub struct Settings {";
        let field = line
            .trim_start()
            .strip_prefix("pub ")
            .and_then(|rest| rest.split_once(": "))
            .map(|(name, _)| name);
        if let Some(name) = field.filter(|_| inside) {
            if !previous.trim_start().starts_with("///") {
                broken.push(format!("{name}: no doc comment"));
            }
            // The value of one follows from the listeners, the fields of the other are keys.
            let is_key = !["local_only", "security"].contains(&name);
            if is_key && manual.is_some_and(|manual| !manual.text.contains(name)) {
                broken.push(format!(
                    "{name}: not in {}",
                    manual.map_or("", |manual| &manual.path)
                ));
            }
        }
        previous = line;
    }
    none_of(
        "every setting says its unit and what happens at the limit",
        &broken,
    );
}

#[test]
fn the_changelog_has_a_section_to_write_in() {
    let files = files();
    let changelog = files
        .iter()
        .find(|file| file.path == "CHANGELOG.md")
        .expect("CHANGELOG.md exists");
    let mut sections = changelog
        .text
        .lines()
        .filter(|line| line.starts_with("## "));
    let first = sections.next().unwrap_or_default();
    let is_version = first.contains(env!("CARGO_PKG_VERSION"));
    assert!(
        first.contains("Unreleased") || is_version,
        "CHANGELOG.md must begin with Unreleased or this version, not {first:?}"
    );
}

#[test]
fn nothing_points_at_the_machine_it_was_written_on() {
    // Put together from halves, so that this file does not hold what it looks for.
    let paths = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let mut broken = Vec::new();
    for file in files() {
        for (index, line) in file.text.lines().enumerate() {
            if paths.iter().any(|path| line.contains(path)) {
                broken.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    none_of("no path of one machine", &broken);
}

#[test]
fn every_link_leads_to_a_known_place() {
    const KNOWN: [&str; 20] = [
        "github.com/",
        "docs.oasis-open.org/",
        "mqtt.org",
        "mosquitto.org",
        "docs.rs/",
        "doc.rust-lang.org/",
        "www.rust-lang.org",
        "rustup.rs",
        "sh.rustup.rs",
        "crates.io",
        "registry.npmjs.org/",
        "pypi.org/",
        "keepachangelog.com",
        "semver.org",
        "spdx.org",
        "www.apache.org/",
        "www.rfc-editor.org/",
        "tools.ietf.org/",
        "embarkstudios.github.io/",
        "json.schemastore.org/",
    ];
    let mut broken = Vec::new();
    for file in files()
        .iter()
        .filter(|file| file.path != "LICENSE-APACHE" && !file.is_in("tests/tidy"))
    {
        for (index, line) in file.text.lines().enumerate() {
            for (at, _) in line.match_indices("://") {
                let host = &line[at + 3..];
                let is_web = line[..at].ends_with("http") || line[..at].ends_with("https");
                let is_local = ["localhost", "127.0.0.1", "[::1]", "{"]
                    .iter()
                    .any(|own| host.starts_with(own));
                // Names that lead nowhere, by RFC 2606.
                let name = host
                    .split(|part: char| !part.is_ascii_alphanumeric() && !".-".contains(part))
                    .next();
                let is_reserved = name.is_some_and(|name| name.ends_with(".example"));
                if is_web
                    && !is_local
                    && !is_reserved
                    && !KNOWN.iter().any(|known| host.starts_with(known))
                {
                    broken.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
                }
            }
        }
    }
    none_of("no link to a place that others cannot reach", &broken);
}

#[test]
fn dependencies_come_from_the_public_registry() {
    let text = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock can be read");
    let broken: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with("source = "))
        .filter(|line| {
            *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\""
        })
        .map(str::to_owned)
        .collect();
    none_of("every dependency comes from crates.io", &broken);
}

/// The first name of every path that begins with `crate::`, groups taken apart.
fn rooms_used(text: &str) -> Vec<String> {
    let name = |path: &str| {
        path.chars()
            .take_while(|part| part.is_alphanumeric() || *part == '_')
            .collect::<String>()
    };
    let mut found = Vec::new();
    for path in text.split("crate::").skip(1) {
        let Some(group) = path.strip_prefix('{') else {
            found.push(name(path));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, part) in group.char_indices() {
            match part {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ if begins && part.is_alphabetic() => {
                    found.push(name(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Fails where a file that `applies` holds one of `words` in shipped code, unless the line also holds one of `unless`.
#[track_caller]
fn absent(rule: &str, applies: impl Fn(&SourceFile) -> bool, words: &[&str], unless: &[&str]) {
    let mut broken = Vec::new();
    for file in files()
        .iter()
        .filter(|file| file.is_rust() && applies(file))
    {
        for (number, line) in file.shipped_lines() {
            let excused = unless.iter().any(|excuse| line.contains(excuse));
            let found = words.iter().any(|word| {
                if word.ends_with(':') {
                    line.contains(word)
                } else {
                    names(line, word)
                }
            });
            if found && !excused {
                broken.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none_of(rule, &broken);
}

/// Unit tests in files of their own may use threads to prove that the rooms may be used by several.
fn is_pure(file: &SourceFile) -> bool {
    !file.path.ends_with("/tests.rs")
        && ["session", "exchange", "shard"]
            .iter()
            .any(|room| file.is_in(&format!("broker/src/{room}")))
}

fn manifests() -> Vec<SourceFile> {
    files()
        .into_iter()
        .filter(|file| file.path.ends_with("Cargo.toml"))
        .collect()
}

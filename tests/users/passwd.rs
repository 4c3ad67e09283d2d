//! `nightjar passwd`, alone and with the real mosquitto_passwd and mosquitto on the other side.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::{Client, Connect, Mosquitto, TemporaryDirectory, program};

use crate::world::{IVY, world_of};

/// A directory with a path for a password file.
fn place() -> (TemporaryDirectory, PathBuf) {
    let directory = TemporaryDirectory::new("passwd");
    fs::create_dir(directory.path()).unwrap();
    let file = directory.path().join("passwd");
    (directory, file)
}

fn run(program: &Path, first: &[&str], arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(first)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who needs no password may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn nightjar(arguments: &[&str], input: &str) -> Output {
    run(harness::binary(), &["passwd"], arguments, input)
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn a_user_is_added_changed_and_deleted_and_the_rest_stays() {
    let (_directory, file) = place();
    let path = file.to_str().unwrap();
    fs::write(&file, format!("# mine\n\n{IVY}")).unwrap();
    assert_eq!(code(&nightjar(&["-b", path, "alice", "one"], "")), Some(0));
    let first = fs::read_to_string(&file).unwrap();
    assert!(
        first.starts_with(&format!("# mine\n\n{IVY}alice:$7$4096$")),
        "{first}"
    );
    assert_eq!(code(&nightjar(&[path, "alice"], "two\ntwo\n")), Some(0));
    let second = fs::read_to_string(&file).unwrap();
    assert!(
        second != first && second.matches("alice:").count() == 1,
        "{second}"
    );
    let world = world_of(&second, "");
    world.accepts(&Connect::v4("c").username("alice").password("two"));
    world.refuses(&Connect::v4("c").username("alice").password("one"));
    assert_eq!(code(&nightjar(&["-D", path, "alice"], "")), Some(0));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("# mine\n\n{IVY}")
    );
}

#[test]
fn every_kind_of_hash_lets_its_user_in() {
    let (_directory, file) = place();
    let path = file.to_str().unwrap();
    let kinds: [(&[&str], &str); 4] = [
        (&["-c"], ":$7$4096$"),
        (&["-I", "77"], ":$7$77$"),
        (&["-H", "sha512"], ":$6$"),
        (&["-H", "argon2id"], ":$argon2id$v=19$m=47104,t=1,p=1$"),
    ];
    for (number, (options, form)) in kinds.iter().enumerate() {
        let user = format!("user{number}");
        let arguments = [options, &["-b", path, &user, "pw"][..]].concat();
        let output = nightjar(&arguments, "");
        assert_eq!(code(&output), Some(0), "{output:?}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("{user}{form}")), "{text}");
    }
    let world = world_of(&fs::read_to_string(&file).unwrap(), "");
    for number in 0..kinds.len() {
        let connect = Connect::v5(format!("c{number}")).username(format!("user{number}"));
        world.accepts(&connect.clone().password("pw"));
        world.refuses(&connect.password("pW"));
    }
}

#[test]
fn plain_passwords_are_hashed_and_hashes_are_left_alone() {
    let (_directory, file) = place();
    fs::write(&file, format!("# mine\n{IVY}\nbob:pl:ain\n")).unwrap();
    let output = nightjar(&["-U", file.to_str().unwrap()], "");
    assert_eq!(code(&output), Some(0), "{output:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with(&format!("# mine\n{IVY}\nbob:$7$")),
        "{text}"
    );
    let world = world_of(&text, "");
    // Each with a client id of its own: the session of the first may still be there, and is not for the second.
    world.accepts(&Connect::v4("b").username("bob").password("pl:ain"));
    world.accepts(&Connect::v4("i").username("ivy").password("s"));
    let again = nightjar(&["-U", file.to_str().unwrap()], "");
    assert_eq!(code(&again), Some(0));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_dash_with_c_prints_the_line() {
    let output = nightjar(&["-c", "-b", "-", "alice", "pw"], "");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(
        text.starts_with("alice:$7$4096$") && text.ends_with("==\n"),
        "{output:?}"
    );
    world_of(&text, "").accepts(&Connect::v4("c").username("alice").password("pw"));
}

#[test]
fn what_cannot_be_done_changes_nothing_and_exits_as_mosquitto_passwd() {
    let (directory, file) = place();
    let path = file.to_str().unwrap();
    let text = format!("{IVY}plain\n");
    fs::write(&file, &text).unwrap();
    let good = directory.path().join("good");
    fs::write(&good, IVY).unwrap();
    let good = good.to_str().unwrap();
    let nowhere = directory.path().join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let long = "u".repeat(65_536);
    let cases: [(&[&str], &str, i32, &str); 22] = [
        (&[], "", 1, "the password file is missing"),
        (&[good], "", 1, "the user is missing"),
        (&["-z"], "", 1, "-z"),
        (
            &["-b", path, "a", "x"],
            "",
            1,
            "Corrupt password file at line 2.",
        ),
        (
            &["-D", path, "ivy"],
            "",
            1,
            "Corrupt password file at line 2.",
        ),
        (&["-U", path], "", 1, "Corrupt password file at line 2."),
        (
            &["-b", good, "a:b", "x"],
            "",
            1,
            "Username must not contain the ':' character.",
        ),
        (
            &["-b", good, "#a", "x"],
            "",
            1,
            "Username must not begin with '#'",
        ),
        (&["-b", good, "", "x"], "", 1, "Username must not be empty."),
        (
            &["-b", good, "a\nb", "x"],
            "",
            1,
            "Username must not contain control characters.",
        ),
        (
            &["-b", good, &long, "x"],
            "",
            1,
            "Username must be less than 65536",
        ),
        (&["-b", good, "a", ""], "", 1, "Empty password."),
        (&["-b", good, "a"], "", 1, "-b needs the password"),
        (&[good, "a", "x"], "", 1, "only taken with -b"),
        (&[good, "a"], "\n\n", 1, "Empty password."),
        (&[good, "a"], "x\ny\n", 2, "Passwords do not match."),
        (
            &["-D", good, "nobody"],
            "",
            1,
            "User nobody not found in password file.",
        ),
        (
            &["-b", nowhere, "a", "x"],
            "",
            1,
            "Unable to open password file",
        ),
        (
            &["-H", "md5", "-b", good, "a", "x"],
            "",
            1,
            "Unknown hash type 'md5'",
        ),
        (
            &["-I", "0", "-b", good, "a", "x"],
            "",
            1,
            "Number of iterations must be > 0",
        ),
        (
            &["-c", "-D", good, "a"],
            "",
            1,
            "-c and -D cannot be used together.",
        ),
        (
            &["-b", "-D", good, "a"],
            "",
            1,
            "-b and -D cannot be used together.",
        ),
    ];
    for (arguments, input, exit, message) in cases {
        let output = nightjar(arguments, input);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let shown: Vec<&str> = arguments
            .iter()
            .map(|word| &word[..word.len().min(20)])
            .collect();
        assert_eq!(code(&output), Some(exit), "{shown:?}: {told}");
        assert!(told.contains(message), "{shown:?}: {told}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(fs::read_to_string(good).unwrap(), IVY);
    assert!(!Path::new(nowhere).exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

/// T3
#[test]
fn files_are_for_their_owner_and_links_stay_links() {
    let (directory, file) = place();
    let path = file.to_str().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let status = Command::new("sh")
        .args(["-c", "umask 000; exec \"$0\" passwd -c -b \"$1\" a x"])
        .arg(harness::binary())
        .arg(path)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(mode(&file), 0o600);
    // The group may stay, others may not.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
    assert_eq!(code(&nightjar(&["-b", path, "b", "x"], "")), Some(0));
    assert_eq!(mode(&file), 0o640);
    let link = directory.path().join("link");
    symlink("passwd", &link).unwrap();
    let arguments = ["-b", link.to_str().unwrap(), "c", "x"];
    assert_eq!(code(&nightjar(&arguments, "")), Some(0));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&file).unwrap().contains("\nc:"));
    let second = directory.path().join("second");
    fs::hard_link(&file, &second).unwrap();
    assert_eq!(code(&nightjar(&["-b", path, "d", "x"], "")), Some(0));
    assert_eq!(fs::metadata(&second).unwrap().nlink(), 2);
    assert!(fs::read_to_string(&second).unwrap().contains("\nd:"));
    let dangling = directory.path().join("dangling");
    symlink("nothing", &dangling).unwrap();
    let arguments = ["-c", "-b", dangling.to_str().unwrap(), "c", "x"];
    assert_eq!(code(&nightjar(&arguments, "")), Some(1));
}

#[test]
fn what_mosquitto_passwd_wrote_is_read_and_changed() {
    let Some(tool) = program("mosquitto_passwd") else {
        return;
    };
    let (_directory, file) = place();
    let path = file.to_str().unwrap();
    let theirs = |arguments: &[&str], input: &str| {
        let output = run(&tool, &[], arguments, input);
        assert_eq!(code(&output), Some(0), "{output:?}");
    };
    theirs(&["-c", "-b", path, "a", "1"], "");
    theirs(&["-b", "-H", "sha512", path, "b", "2"], "");
    theirs(&["-I", "345", path, "c"], "3\n3\n");
    assert_eq!(code(&nightjar(&["-b", path, "b", "22"], "")), Some(0));
    assert_eq!(code(&nightjar(&["-b", path, "d", "4"], "")), Some(0));
    theirs(&["-b", path, "d", "44"], "");
    theirs(&["-D", path, "a"], "");
    let world = world_of(&fs::read_to_string(&file).unwrap(), "");
    for (user, password) in [("b", "22"), ("c", "3"), ("d", "44")] {
        world.accepts(&Connect::v4(user).username(user).password(password));
        world.refuses(&Connect::v4(user).username(user).password("x"));
    }
    world.refuses(&Connect::v4("c").username("a").password("1"));
}

#[test]
fn mosquitto_lets_in_whom_nightjar_wrote() {
    let Some(broker) = program("mosquitto") else {
        return;
    };
    let (directory, file) = place();
    let path = file.to_str().unwrap();
    for arguments in [
        &["-c", "-b", path, "a", "1"][..],
        &["-b", "-H", "sha512", path, "b", "2"],
        &["-I", "345", "-b", path, "c", "3"],
    ] {
        assert_eq!(code(&nightjar(arguments, "")), Some(0));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let password_file = format!("password_file {path}");
    let running = Mosquitto::start(&broker, directory.path(), &password_file);
    for (user, password, answer) in [
        ("a", "1", "20 02 00 00"),
        ("b", "2", "20 02 00 00"),
        ("c", "3", "20 02 00 00"),
        ("a", "2", "20 02 00 05"),
    ] {
        let mut client = Client::open_at(running.address);
        client.send(&Connect::v4("c").username(user).password(password).bytes());
        client.expect(answer);
    }
}

//! What is delivered for a system, looked at by the programs that it is for.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{TemporaryDirectory, binary};

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let Some(analyze) = system_program("systemd-analyze") else {
        return;
    };
    let directory = TemporaryDirectory::new("units");
    fs::create_dir(directory.path()).unwrap();
    let service = fs::read_to_string(deploy("nightjar.service")).unwrap();
    assert!(
        service.contains("ExecStart=/usr/sbin/nightjar "),
        "{service}"
    );
    // It looks for the program, too.
    let service = service.replace("/usr/sbin/nightjar", binary().to_str().unwrap());
    fs::write(directory.path().join("nightjar.service"), service).unwrap();
    fs::copy(
        deploy("nightjar.socket"),
        directory.path().join("nightjar.socket"),
    )
    .unwrap();
    for unit in ["nightjar.service", "nightjar.socket"] {
        let output = Command::new(&analyze)
            .args(["verify", "--man=no"])
            .arg(directory.path().join(unit))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let of_ours: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(output.status.success(), "{unit}: {said}");
        assert!(of_ours.is_empty(), "{unit}: {of_ours:?}");
    }
}

/// Of every command: what is in the help is in its page.
#[test]
fn there_is_a_manual_page_for_each_command_with_all_its_options() {
    let commands = [
        "",
        "store",
        "passwd",
        "config",
        "config migrate",
        "config show",
        "acl",
        "acl explain",
        "acl lint",
    ];
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let page = print(&[&["man"], words.as_slice()].concat());
        assert!(page.contains(".TH nightjar"), "{command}: {page:.200}");
        let help = print(&[words.as_slice(), &["--help"]].concat());
        let options = help
            .split([' ', ',', '[', ']', '\n'])
            .filter(|word| word.starts_with("--"));
        for option in options {
            let in_roff = option.replace('-', "\\-");
            assert!(page.contains(&in_roff), "{command}: {option}");
        }
        // Where there is a formatter, it has nothing to complain of.
        if Path::new("/usr/bin/groff").exists() {
            let said = fed("groff", &["-man", "-ww", "-z", "-Tutf8"], &page);
            assert_eq!(said, "", "{command}");
        }
    }
}

#[test]
fn shells_can_read_their_completions() {
    for (shell, begin) in [
        ("bash", "_nightjar() {"),
        ("zsh", "#compdef nightjar"),
        ("fish", "complete -c nightjar"),
    ] {
        let script = print(&["completions", shell]);
        assert!(script.contains(begin), "{shell}: {script:.200}");
        if Path::new("/usr/bin").join(shell).exists() {
            assert_eq!(fed(shell, &["-n"], &script), "", "{shell}");
        }
    }
}

/// What `nightjar` prints.
#[track_caller]
fn print(arguments: &[&str]) -> String {
    let output = Command::new(binary()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a program says of its input.
fn fed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of `deploy/`.
pub(crate) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// A program of the system; without it something is left out, loudly, and on CI it fails.
pub(crate) fn system_program(name: &str) -> Option<PathBuf> {
    let found = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is needed where CI is set"
        );
        eprintln!("NOT PROVED: {name} is not installed");
    }
    found
}

//! `docs/conformance.md`: what `statements.toml` says, as a table for people; compared, or written with `UPDATE=1`.

use std::fmt::Write as _;
use std::fs;

use crate::source::root;
use crate::statements::{Standing, Statements, statements};

#[test]
fn the_conformance_table_is_current() {
    let path = root().join("docs/conformance.md");
    let table = table();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(root().join("docs")).expect("docs/ can be made");
        fs::write(&path, &table).expect("docs/conformance.md can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == table,
        "docs/conformance.md is not what statements.toml says; run this test with UPDATE=1"
    );
}

fn table() -> String {
    let mut out = String::from(
        "# Conformance\n\nEvery normative statement of the two OASIS standards, in our words, with the test that proves it: raw bytes \
         over TCP against\nthe running broker. Written by `UPDATE=1 cargo test -p nightjar-tests --test tidy` from \
         `tests/conformance/statements.toml`;\ndo not edit.\n",
    );
    section(&mut out, "MQTT 5.0", "", &statements("v5"));
    section(&mut out, "MQTT 3.1.1", "v3 ", &statements("v3"));
    out
}

fn section(out: &mut String, title: &str, prefix: &str, rows: &Statements) {
    let count =
        |wanted: fn(&Standing) -> bool| rows.values().filter(|row| wanted(&row.standing)).count();
    let tested = count(|standing| matches!(standing, Standing::Tested(_)));
    let deviations = count(|standing| matches!(standing, Standing::Deviation(..)));
    let client_side = count(|standing| matches!(standing, Standing::ClientSide(_)));
    let not_testable = count(|standing| matches!(standing, Standing::NotTestable(_)));
    let total = rows.len();
    write!(
        out,
        "\n## {title}\n\n{total} statements: {tested} tested, {deviations} deviations, {client_side} about the client alone, \
         {not_testable} not testable here.\n\n| statement | in short | standing |\n|---|---|---|\n"
    )
    .expect("writing to a String does not fail");
    for (id, row) in rows {
        let tests: Vec<String> = row.tests().iter().map(|test| format!("`{test}`")).collect();
        let tests = tests.join("<br>");
        let standing = match &row.standing {
            Standing::Tested(_) => tests,
            Standing::Deviation(reason, _) if tests.is_empty() => {
                format!("**deviation**: {reason}")
            }
            Standing::Deviation(reason, _) => format!("**deviation**: {reason}<br>{tests}"),
            Standing::ClientSide(reason) => format!("client: {reason}"),
            Standing::NotTestable(reason) => format!("not testable: {reason}"),
        };
        let summary = row.summary.replace('|', "\\|");
        writeln!(out, "| {prefix}{id} | {summary} | {standing} |")
            .expect("writing to a String does not fail");
    }
}

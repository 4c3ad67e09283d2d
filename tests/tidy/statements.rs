//! `tests/conformance/statements.toml` against the standards' ids, the tests, and the citations in the code, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::source::{SourceFile, files, none_of, root};

/// What a row says about its statement.
pub(crate) enum Standing {
    /// Proven by these tests, `file::name`.
    Tested(Vec<String>),
    /// Built otherwise, on purpose; tests show what is done.
    Deviation(String, Vec<String>),
    /// About the client.
    ClientSide(String),
    /// About nothing that a test of the broker could see.
    NotTestable(String),
}

/// One row of `statements.toml`.
pub(crate) struct Statement {
    pub(crate) summary: String,
    pub(crate) standing: Standing,
}

/// The rows of one standard by id, in the order of the standard.
pub(crate) type Statements = BTreeMap<StatementId, Statement>;

/// `MQTT-3.10.4-1`, ordered as in the standard.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct StatementId {
    chapter: Vec<u32>,
    number: u32,
}

impl StatementId {
    /// `MQTT-3.10.4-1` and nothing around it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (chapter, number) = text.strip_prefix("MQTT-")?.split_once('-')?;
        let chapter = chapter
            .split('.')
            .map(|part| part.parse().ok())
            .collect::<Option<Vec<u32>>>()?;
        Some(Self {
            chapter,
            number: number.parse().ok()?,
        })
    }

    /// `mqtt_3_10_4_1_`, what the name of a test begins with.
    fn test_prefix(&self) -> String {
        let parts: Vec<String> = self
            .chapter
            .iter()
            .chain([&self.number])
            .map(u32::to_string)
            .collect();
        format!("mqtt_{}_", parts.join("_"))
    }
}

impl std::fmt::Display for StatementId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let chapter: Vec<String> = self.chapter.iter().map(u32::to_string).collect();
        write!(formatter, "MQTT-{}-{}", chapter.join("."), self.number)
    }
}

/// The rows of `standard` (`v3` or `v5`).
pub(crate) fn statements(standard: &str) -> Statements {
    let text = fs::read_to_string(root().join("tests/conformance/statements.toml"))
        .expect("statements.toml can be read");
    let table: toml::Table = text.parse().expect("statements.toml is TOML");
    let rows = table
        .get(standard)
        .and_then(toml::Value::as_table)
        .expect("each standard has rows");
    rows.iter()
        .map(|(id, row)| {
            let parsed = StatementId::parse(id)
                .unwrap_or_else(|| panic!("{standard} {id} is no statement id"));
            (
                parsed,
                statement(
                    &format!("{standard} {id}"),
                    row.as_table().expect("a row is a table"),
                ),
            )
        })
        .collect()
}

#[test]
fn every_statement_of_5_0_has_a_row() {
    check_ids("v5", 252, 11_852_822_777_990_561_628);
    let list = root().join("../shared/requirements/statement-ids-v5.txt");
    let Ok(text) = fs::read_to_string(&list) else {
        println!(
            "{} is not here: compared with the count and the hash only",
            list.display()
        );
        return;
    };
    let expected: BTreeSet<StatementId> = text.lines().filter_map(StatementId::parse).collect();
    let rows: BTreeSet<StatementId> = statements("v5").into_keys().collect();
    assert_eq!(rows, expected);
}

#[test]
fn every_statement_of_3_1_1_has_a_row() {
    check_ids("v3", 141, 669_113_064_046_967_871);
}

#[test]
fn every_named_test_exists() {
    let tests = tests();
    let mut broken = Vec::new();
    for standard in ["v3", "v5"] {
        for (id, statement) in statements(standard) {
            for name in statement
                .tests()
                .iter()
                .filter(|name| !tests.contains(*name))
            {
                broken.push(format!("{standard} {id}: {name}"));
            }
        }
    }
    none_of("every test named in statements.toml is there", &broken);
}

#[test]
fn every_test_of_a_statement_is_named_in_its_row() {
    let (v3, v5) = (statements("v3"), statements("v5"));
    let mut broken = Vec::new();
    for test in tests() {
        let (_, name) = test.split_once("::").expect("file::name");
        let (standard, rows, name) = match name.strip_prefix("v3_") {
            Some(name) => ("v3", &v3, name),
            None => ("v5", &v5, name),
        };
        if !name.starts_with("mqtt_") {
            continue;
        }
        let own = rows
            .iter()
            .find(|(id, row)| name.starts_with(&id.test_prefix()) && row.tests().contains(&test));
        if own.is_none() {
            broken.push(format!(
                "{test} is in no row of {standard} whose id its name begins with"
            ));
        }
    }
    none_of(
        "every mqtt_ test is named in the row of its statement",
        &broken,
    );
}

#[test]
fn every_citation_is_of_a_statement_there_is() {
    let (v3, v5) = (statements("v3"), statements("v5"));
    let mut broken = Vec::new();
    let mut count = 0;
    for file in files()
        .iter()
        .filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".md"))
    {
        for (number, line) in file
            .text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
        {
            for (at, opening) in line.match_indices("MQTT-") {
                let word: String = line[at..]
                    .chars()
                    .take_while(|part| !"])`,; \"'".contains(*part))
                    .collect();
                let before = line[..at].trim_end_matches(['[', '`']);
                let rows = if before.trim_end().ends_with("v3") {
                    &v3
                } else {
                    &v5
                };
                let cited = word.trim_end_matches(|last: char| !last.is_ascii_digit());
                if cited.len() > opening.len()
                    && cited.matches('-').count() == 2
                    && cited.contains('.')
                {
                    count += 1;
                    if !StatementId::parse(cited).is_some_and(|id| rows.contains_key(&id)) {
                        broken.push(format!("{}:{number}: {}", file.path, line.trim()));
                    }
                }
            }
        }
    }
    none_of(
        "every [MQTT-x.y.z-n] is a statement of 5.0, every [v3 MQTT-x.y.z-n] one of 3.1.1",
        &broken,
    );
    assert!(count > 0, "no citation was found: the search is broken");
}

#[test]
fn ids_are_ordered_as_in_the_standard() {
    let id = |text| StatementId::parse(text).expect("an id");
    assert!(id("MQTT-3.9.3-2") < id("MQTT-3.10.1-1"));
    assert!(id("MQTT-3.3.2-9") < id("MQTT-3.3.2-10"));
    assert_eq!(id("MQTT-3.10.4-1").test_prefix(), "mqtt_3_10_4_1_");
    assert_eq!(id("MQTT-3.10.4-1").to_string(), "MQTT-3.10.4-1");
    assert!(StatementId::parse("MQTT-3.10.4").is_none());
}

impl Statement {
    /// The tests of the row.
    pub(crate) fn tests(&self) -> &[String] {
        match &self.standing {
            Standing::Tested(tests) | Standing::Deviation(_, tests) => tests,
            Standing::ClientSide(_) | Standing::NotTestable(_) => &[],
        }
    }
}

fn statement(place: &str, row: &toml::Table) -> Statement {
    let text = |key: &str| {
        row.get(key)
            .map(|value| value.as_str().expect("a string").to_owned())
    };
    let tests: Option<Vec<String>> = row.get("tests").map(|value| {
        let names = value.as_array().expect("tests is an array");
        assert!(!names.is_empty(), "{place}: tests is empty");
        names
            .iter()
            .map(|name| name.as_str().expect("a string").to_owned())
            .collect()
    });
    let known = [
        "summary",
        "tests",
        "client_side",
        "not_testable",
        "deviation",
    ];
    for key in row.keys() {
        assert!(known.contains(&key.as_str()), "{place}: unknown key {key}");
    }
    let summary = text("summary").unwrap_or_else(|| panic!("{place}: no summary"));
    assert!(
        (1..=120).contains(&summary.len()),
        "{place}: a summary is a few words"
    );
    let standing = match (
        tests,
        text("client_side"),
        text("not_testable"),
        text("deviation"),
    ) {
        (Some(tests), None, None, None) => Standing::Tested(tests),
        (tests, None, None, Some(reason)) => Standing::Deviation(reason, tests.unwrap_or_default()),
        (None, Some(reason), None, None) => Standing::ClientSide(reason),
        (None, None, Some(reason), None) => Standing::NotTestable(reason),
        _ => panic!(
            "{place}: one of tests, client_side, not_testable, deviation (with or without tests)"
        ),
    };
    Statement { summary, standing }
}

/// Compares the ids of `standard` with what is known of the whole list: how many, and a hash over them in order.
#[track_caller]
fn check_ids(standard: &str, count: usize, hash: u64) {
    let ids: Vec<String> = statements(standard)
        .keys()
        .map(StatementId::to_string)
        .collect();
    assert_eq!(ids.len(), count);
    assert_eq!(
        fnv_1a(&ids.join("\n")),
        hash,
        "the ids of {standard} are not those of the standard"
    );
}

fn fnv_1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Every test of `tests/conformance`, as `file::name`.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files()
        .iter()
        .filter(|file| file.is_in("tests/conformance") && file.is_rust())
    {
        let room = file
            .path
            .trim_start_matches("tests/conformance/")
            .trim_end_matches(".rs")
            .replace('/', "::");
        found.extend(tests_in(file).map(|name| format!("{room}::{name}")));
    }
    found
}

fn tests_in(file: &SourceFile) -> impl Iterator<Item = String> {
    let mut is_test = false;
    file.code_lines().filter_map(move |(_, line)| {
        let line = line.trim();
        if line == "#[test]" {
            is_test = true;
            return None;
        }
        let name = line
            .strip_prefix("fn ")
            .and_then(|rest| rest.split_once('('))
            .map(|(name, _)| name.to_owned());
        // Attributes may stand between the two; anything else ends the search.
        let found = name.filter(|_| is_test);
        is_test = is_test && line.starts_with("#[");
        found
    })
}

//! The result of a comparison: medians with their spread, and ratios of them.
//!
//! Comes in: the runs of every work on every broker, in rounds. Goes out: a Markdown table (`Display`), JSON, or a page.
//! The ratio is that of the medians; its spread is the lowest and highest ratio of the two runs of one round, which had
//! the same disturbances. A run that lost something makes the row of its broker void.

use std::fmt;

use serde::Serialize;

use super::file::WorkPlan;
use crate::html::Page;
use crate::plot::{Bar, Bars};
use crate::report::{SATURATED_ABOVE, Spread, float};
use crate::sheet::{Better, Measure, digits};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub title: String,
    pub pinned: bool,
    pub rounds: u32,
    /// Name and version.
    pub brokers: Vec<(String, String)>,
    pub rows: Vec<Row>,
}

/// One work.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub work: String,
    pub run: String,
    pub goals: Vec<(String, f64)>,
    /// By broker.
    pub results: Vec<Results>,
}

/// The runs of one work on one broker.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    pub runs: Vec<Run>,
    pub failures: Vec<String>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub measures: Vec<Measure>,
    pub losses: u64,
    pub generator_core_share: f64,
    /// Of the time, broker and generator together were ready to run while somebody else had the core.
    pub waited_share: f64,
}

/// One measure of one work, over all brokers.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub measure: String,
    pub unit: String,
    pub better: Better,
    /// By broker; none where the row is void or failed.
    pub values: Vec<Option<Spread>>,
    /// Of the first broker to each of the others.
    pub ratios: Vec<Option<Spread>>,
    pub goal: Option<f64>,
    /// Whether the first ratio is as good as the goal.
    pub reached: Option<bool>,
}

impl Row {
    /// No runs yet.
    #[must_use]
    pub fn new(work: &WorkPlan, brokers: usize) -> Self {
        Self {
            work: work.name.clone(),
            run: work.run.clone(),
            goals: work.goal.clone().into_iter().collect(),
            results: vec![Results::default(); brokers],
        }
    }

    /// One run on broker number `broker`, or why there was none.
    pub fn add(&mut self, broker: usize, run: Result<Run, String>) {
        let Some(results) = self.results.get_mut(broker) else {
            return;
        };
        match run {
            Ok(run) => results.runs.push(run),
            Err(failure) => results.failures.push(failure),
        }
    }

    /// What was measured, in the order in which the generator tells it.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let runs = self.results.iter().flat_map(|results| &results.runs);
        let Some(first) = runs.max_by_key(|run| run.measures.len()) else {
            return Vec::new();
        };
        first
            .measures
            .iter()
            .map(|measure| self.line(measure))
            .collect()
    }

    /// What a reader must know besides.
    #[must_use]
    pub fn notes(&self, brokers: &[(String, String)]) -> Vec<String> {
        let mut notes = Vec::new();
        for ((name, _), results) in brokers.iter().zip(&self.results) {
            let losses: u64 = results.runs.iter().map(|run| run.losses).sum();
            if losses > 0 {
                notes.push(format!("{name}: void, {losses} lost"));
            }
            if let Some(failure) = results.failures.first() {
                let (count, all) = (
                    results.failures.len(),
                    results.failures.len() + results.runs.len(),
                );
                notes.push(format!("{name}: {count} of {all} runs failed: {failure}"));
            }
            let shares = results.runs.iter().map(|run| run.generator_core_share);
            let share = shares.fold(0.0, f64::max);
            if share > SATURATED_ABOVE {
                let percent = share * 100.0;
                notes.push(format!("{name}: generator at {percent:.0} % of its core"));
            }
            let waited = results.runs.iter().map(|run| run.waited_share).sum::<f64>();
            let waited = waited / float(results.runs.len().max(1) as u64);
            if waited > SHARED_ABOVE {
                let percent = waited * 100.0;
                notes.push(format!("{name}: cores shared {percent:.0} %"));
            }
        }
        notes
    }

    fn line(&self, measure: &Measure) -> Line {
        let name = &measure.name;
        let values: Vec<Vec<f64>> = self
            .results
            .iter()
            .map(|results| results.values(name))
            .collect();
        let spread =
            |values: &Vec<f64>| (!values.is_empty()).then(|| Spread::of(values.iter().copied()));
        let (own, others) = values
            .split_first()
            .map_or((&[][..], &[][..]), |(own, others)| (own.as_slice(), others));
        let ratios: Vec<Option<Spread>> = others.iter().map(|other| ratio(own, other)).collect();
        let goal = self
            .goals
            .iter()
            .find(|(wanted, _)| wanted == name)
            .map(|(_, goal)| *goal);
        let ratio = ratios.first().copied().flatten();
        let reached = goal.zip(ratio).map(|(goal, ratio)| match measure.better {
            Better::Higher => ratio.median >= goal,
            Better::Lower => ratio.median <= goal,
        });
        Line {
            measure: name.clone(),
            unit: measure.unit.clone(),
            better: measure.better,
            values: values.iter().map(spread).collect(),
            ratios,
            goal,
            reached,
        }
    }
}

impl Results {
    /// One measure of every run; nothing if the row is void or a run failed.
    fn values(&self, name: &str) -> Vec<f64> {
        if !self.failures.is_empty() || self.runs.iter().any(|run| run.losses > 0) {
            return Vec::new();
        }
        let measures = self.runs.iter().flat_map(|run| &run.measures);
        let measures = measures.filter(|measure| measure.name == name);
        measures.map(|measure| measure.value).collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "# {}\n", self.title)?;
        for (name, version) in &self.brokers {
            writeln!(out, "- {name}: {version}")?;
        }
        writeln!(out, "- {}\n", self.method())?;
        let header = self.header();
        writeln!(out, "| {} |", header.join(" | "))?;
        writeln!(out, "|{}", "---|".repeat(header.len()))?;
        for cells in self.cells() {
            writeln!(out, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

impl Comparison {
    /// Whether any broker did any work as it should.
    #[must_use]
    pub fn has_results(&self) -> bool {
        let results = self.rows.iter().flat_map(|row| &row.results);
        results.into_iter().any(|results| !results.runs.is_empty())
    }

    /// The page to look at.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = Page::new(&self.title, &self.method());
        for (name, version) in &self.brokers {
            page.note(&format!("{name}: {version}"));
        }
        let header = self.header();
        // Notes are sentences: they stand below, where they do not push the numbers out of the window.
        let (_, header) = header.split_last().expect("the notes are always there");
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut cells = self.cells();
        for row in &mut cells {
            row.truncate(header.len());
            for cell in row {
                // Emphasis of Markdown.
                *cell = cell.replace("**", "");
            }
        }
        page.table("All of it", &header, &cells);
        for row in &self.rows {
            let notes = row.notes(&self.brokers).join("; ");
            if !notes.is_empty() {
                page.note(&format!("{}: {notes}", row.work));
            }
        }
        for row in &self.rows {
            let drawn = row.lines().into_iter().map(|line| {
                let bars = self.brokers.iter().zip(&line.values);
                let bars = bars.map(|((name, _), value)| Bar {
                    name: name.clone(),
                    value: *value,
                });
                let bars = Bars {
                    title: line.measure.clone(),
                    unit: line.unit.clone(),
                    bars: bars.collect(),
                };
                bars.svg()
            });
            let drawn: Vec<String> = drawn.collect();
            if !drawn.is_empty() {
                page.figures(&row.work, &drawn);
            }
        }
        page.finish()
    }

    fn method(&self) -> String {
        let pinned = if self.pinned {
            "broker and generator each bound to a core"
        } else {
            "broker and generator on any core"
        };
        let rounds = match self.rounds {
            1 => "one round".to_owned(),
            rounds => format!("medians of {rounds} rounds in turns (lowest to highest)"),
        };
        format!(
            "{rounds}, {pinned}; ratios are {} to the other",
            self.brokers.first().map_or("the first", |(name, _)| name)
        )
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["work".to_owned(), "measure".to_owned()];
        header.extend(self.brokers.iter().map(|(name, _)| name.clone()));
        let others = self.brokers.iter().skip(1);
        header.extend(others.map(|(name, _)| format!("ratio to {name}")));
        if self.rows.iter().any(|row| !row.goals.is_empty()) {
            header.push("goal".to_owned());
        }
        header.push("notes".to_owned());
        header
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let goals = self.rows.iter().any(|row| !row.goals.is_empty());
        let mut rows = Vec::new();
        for row in &self.rows {
            let mut lines = row.lines();
            let mut notes = row.notes(&self.brokers).join("; ");
            let mut work = row.work.clone();
            if lines.is_empty() {
                lines.push(Line::nothing(self.brokers.len()));
            }
            for line in lines {
                let mut cells = vec![std::mem::take(&mut work)];
                cells.push(format!("{}, {}", line.measure, line.unit));
                cells.extend(line.values.iter().map(value_cell));
                cells.extend(line.ratios.iter().map(ratio_cell));
                if goals {
                    cells.push(line.goal_cell());
                }
                cells.push(std::mem::take(&mut notes));
                rows.push(cells);
            }
        }
        rows
    }
}

impl Line {
    fn nothing(brokers: usize) -> Self {
        Self {
            measure: "-".to_owned(),
            unit: String::new(),
            better: Better::Higher,
            values: vec![None; brokers],
            ratios: vec![None; brokers.saturating_sub(1)],
            goal: None,
            reached: None,
        }
    }

    fn goal_cell(&self) -> String {
        let Some(goal) = self.goal else {
            return String::new();
        };
        let bound = match self.better {
            Better::Higher => "at least",
            Better::Lower => "at most",
        };
        let verdict = match self.reached {
            Some(true) => ": reached",
            Some(false) => ": **not reached**",
            None => "",
        };
        format!("{bound} {}{verdict}", digits(goal))
    }
}

/// Of medians, spread over the rounds.
fn ratio(own: &[f64], other: &[f64]) -> Option<Spread> {
    if own.is_empty() || other.is_empty() {
        return None;
    }
    let medians = |values: &[f64]| Spread::of(values.iter().copied()).median;
    let each = own.iter().zip(other).filter(|(_, other)| **other > 0.0);
    let each = Spread::of(each.map(|(own, other)| own / other));
    let other = medians(other);
    (other > 0.0).then(|| Spread {
        median: medians(own) / other,
        ..each
    })
}

fn value_cell(value: &Option<Spread>) -> String {
    value.map_or("void".to_owned(), |spread| spread_cell(&spread, ""))
}

fn ratio_cell(ratio: &Option<Spread>) -> String {
    ratio.map_or("-".to_owned(), |ratio| spread_cell(&ratio, "x"))
}

/// The range only where there is one.
fn spread_cell(spread: &Spread, unit: &str) -> String {
    let median = digits(spread.median);
    if spread.min == spread.max {
        return format!("{median}{unit}");
    }
    let (min, max) = (digits(spread.min), digits(spread.max));
    format!("{median}{unit} ({min} to {max})")
}

/// As `bench.sh` has it: above this the run says something of the neighbours too.
const SHARED_ABOVE: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(runs: &[(usize, f64, u64)]) -> Row {
        let work = WorkPlan {
            name: "work".to_owned(),
            run: "pubsub".to_owned(),
            config: std::collections::BTreeMap::new(),
            goal: [("received".to_owned(), 3.0)].into(),
        };
        let mut row = Row::new(&work, 2);
        for (broker, value, losses) in runs {
            let run = Run {
                measures: vec![Measure::higher("received", "msg/s", *value)],
                losses: *losses,
                generator_core_share: 0.5,
                waited_share: 0.3,
            };
            row.add(*broker, Ok(run));
        }
        row
    }

    #[test]
    fn the_ratio_is_that_of_medians_and_its_spread_that_of_rounds() {
        let runs = [
            (0, 40.0, 0),
            (1, 10.0, 0),
            (1, 20.0, 0),
            (0, 50.0, 0),
            (0, 60.0, 0),
            (1, 12.0, 0),
        ];
        let line = &row(&runs).lines()[0];
        let ratio = line.ratios[0].unwrap();
        assert_eq!(ratio.median, 50.0 / 12.0);
        assert_eq!((ratio.min, ratio.max), (2.5, 5.0));
        assert_eq!(line.reached, Some(true));
    }

    #[test]
    fn one_lost_message_makes_a_row_void() {
        let row = row(&[(0, 40.0, 0), (0, 40.0, 1), (1, 10.0, 0), (1, 10.0, 0)]);
        let line = &row.lines()[0];
        assert!(line.values[0].is_none() && line.values[1].is_some());
        assert!(line.ratios[0].is_none() && line.reached.is_none());
        let brokers = [
            ("ours".to_owned(), String::new()),
            ("theirs".to_owned(), String::new()),
        ];
        let shared = ["ours: cores shared 30 %", "theirs: cores shared 30 %"];
        let expected = ["ours: void, 1 lost", shared[0], shared[1]];
        assert_eq!(row.notes(&brokers), expected);
    }

    #[test]
    fn a_failed_run_is_told_and_leaves_no_number() {
        let mut row = row(&[(0, 40.0, 0), (1, 10.0, 0)]);
        row.add(1, Err("it broke".to_owned()));
        let comparison = Comparison {
            title: "t".to_owned(),
            pinned: false,
            rounds: 2,
            brokers: vec![
                ("ours".to_owned(), String::new()),
                ("theirs".to_owned(), String::new()),
            ],
            rows: vec![row],
        };
        let text = comparison.to_string();
        assert!(
            text.contains("theirs: 1 of 2 runs failed: it broke"),
            "{text}"
        );
        assert!(text.contains("| 40.00 | void | - |"), "{text}");
    }
}

//! A page to look at: one file with everything in it, that needs no other file and no network.
//!
//! Comes in: an outcome. Goes out: HTML text. Whatever comes from outside is escaped.

use crate::meter::{Phase, Sample};
use crate::outcome::Outcome;
use crate::plot::{Axis, Line, Plot, escape};
use crate::report::{Report, float};
use crate::sheet::{Better, Measure, Sheet, digits};

/// The page of one run.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Report(report) => of_report(report),
        Outcome::Sheet(sheet) => of_sheet(sheet),
    }
}

/// A page under construction.
#[derive(Debug)]
pub struct Page {
    body: String,
    title: String,
}

impl Page {
    /// A page with a heading.
    #[must_use]
    pub fn new(title: &str, subtitle: &str) -> Self {
        let (shown, subtitle) = (escape(title), escape(subtitle));
        Self {
            body: format!("<h1>{shown}</h1>\n<p class=\"work\">{subtitle}</p>\n"),
            title: shown,
        }
    }

    /// A table; a column is text if no cell of it begins with a digit.
    pub fn table(&mut self, caption: &str, header: &[&str], rows: &[Vec<String>]) {
        let is_number = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit());
        let mut of_column = vec!["text"; header.len()];
        for row in rows {
            for (class, _) in of_column
                .iter_mut()
                .zip(row)
                .filter(|(_, cell)| is_number(cell))
            {
                *class = "";
            }
        }
        let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
            let cells = cells.zip(&of_column).map(|(cell, class)| {
                let long = if cell.len() > NOWRAP_MAX { " long" } else { "" };
                format!("<{tag} class=\"{class}{long}\">{}</{tag}>", escape(cell))
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let caption = escape(caption);
        self.body
            .push_str(&format!("<h2>{caption}</h2>\n<figure><table>\n"));
        self.body
            .push_str(&cells("th", &mut header.iter().copied()));
        for row in rows {
            self.body
                .push_str(&cells("td", &mut row.iter().map(String::as_str)));
        }
        self.body.push_str("</table></figure>\n");
    }

    /// A drawing below a heading of its own.
    pub fn figure(&mut self, caption: &str, svg: &str) {
        self.figures(caption, &[svg.to_owned()]);
    }

    /// Drawings below one heading.
    pub fn figures(&mut self, caption: &str, svgs: &[String]) {
        let caption = escape(caption);
        self.body.push_str(&format!("<h2>{caption}</h2>\n"));
        for svg in svgs {
            self.body.push_str(&format!("<figure>{svg}</figure>\n"));
        }
    }

    /// A paragraph.
    pub fn note(&mut self, text: &str) {
        self.body.push_str(&format!("<p>{}</p>\n", escape(text)));
    }

    /// A paragraph that must not be overlooked.
    pub fn warning(&mut self, text: &str) {
        let text = escape(text);
        self.body
            .push_str(&format!("<p class=\"warning\">{text}</p>\n"));
    }

    /// The whole file.
    #[must_use]
    pub fn finish(self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
            self.title, self.body
        )
    }
}

fn of_report(report: &Report) -> String {
    let pace = match (report.window, report.rate) {
        (_, Some(rate)) => format!("{rate} msg/s"),
        (window, _) => format!("window {}", window.unwrap_or(0)),
    };
    let work = format!(
        "{} publishers, {} subscribers, QoS {}, {} bytes, {pace}, in flight {}, MQTT {}, {}",
        report.publishers,
        report.subscribers,
        report.qos,
        report.payload_bytes,
        report.in_flight_max,
        report.protocol,
        report.address
    );
    let mut page = Page::new(&format!("nightjar-loadtest {}", report.scenario), &work);
    if report.losses > 0 {
        page.warning(&format!("{} messages were lost.", report.losses));
    }
    saturation(&mut page, report.generator.saturated);
    measures(&mut page, &report.measures);
    let rate = &report.per_second;
    let mut facts = vec![
        fact("lowest round", rate.min, "msg/s"),
        fact("highest round", rate.max, "msg/s"),
        fact("sent", float(report.sent), ""),
        fact("lost", float(report.losses), ""),
        fact("duplicates", float(report.duplicates), ""),
        fact("reorderings", float(report.reorderings), ""),
        fact("strays", float(report.strays), ""),
        fact("refused", float(report.refused), ""),
        fact(
            "generator CPU",
            report.generator.cpu_us_per_message,
            "us per message",
        ),
        fact("generator's core", report.generator.core_share * 100.0, "%"),
    ];
    if let Some(broker) = &report.broker {
        facts.push(fact(
            "broker CPU",
            broker.cpu_us_per_message,
            "us per message",
        ));
        facts.push(fact("broker's cores", broker.core_share * 100.0, "%"));
        facts.push(fact("broker resident", float(broker.resident_kib), "KiB"));
        facts.push(fact(
            "broker resident, peak",
            float(broker.resident_peak_kib),
            "KiB",
        ));
    }
    page.table("What happened", &["", "value", "unit"], &facts);
    time_plots(&mut page, &report.samples, "messages per second");
    let over_rounds = |name: &str, of: fn(&crate::report::Round) -> Option<f64>| {
        let mut seconds = 0.0;
        let points = report.rounds.iter().filter_map(|round| {
            seconds += round.seconds;
            of(round).map(|value| (seconds, value))
        });
        Line {
            name: name.to_owned(),
            points: points.collect(),
        }
    };
    if !report.latency_curve.is_empty() {
        let lines = vec![Line {
            name: "latency".to_owned(),
            points: report.latency_curve.clone(),
        }];
        percentiles(&mut page, "From due to the end of the waiting", lines);
        let plot = Plot {
            title: "latency over time".to_owned(),
            x_label: "seconds",
            y_label: "microseconds",
            x_axis: Axis::Linear,
            y_axis: Axis::Logarithmic,
            lines: vec![
                over_rounds("p50", |round| round.latency_p50),
                over_rounds("p99", |round| round.latency_p99),
            ],
        };
        page.figure("Latency of each round", &plot.svg());
    }
    page.finish()
}

fn of_sheet(sheet: &Sheet) -> String {
    let work = format!("{}, MQTT {}, {}", sheet.work, sheet.protocol, sheet.address);
    let mut page = Page::new(&format!("nightjar-loadtest {}", sheet.scenario), &work);
    if sheet.tally.losses > 0 {
        page.warning(&format!("{} were lost.", sheet.tally.losses));
    }
    saturation(&mut page, sheet.saturated);
    measures(&mut page, &sheet.measures);
    let rows: Vec<Vec<String>> = sheet.phases.iter().map(phase_row).collect();
    page.table("Phases", &PHASE_HEADER, &rows);
    let tally = &sheet.tally;
    let facts = [
        ("sent", Some(tally.sent)),
        ("acknowledged", tally.acknowledged),
        ("received", Some(tally.received)),
        ("lost", Some(tally.losses)),
        ("duplicates", Some(tally.duplicates)),
        ("reorderings", Some(tally.reorderings)),
        ("strays", Some(tally.strays)),
        ("refused", Some(tally.refused)),
    ];
    let facts = facts.into_iter().filter_map(|(name, value)| {
        let value = value?;
        Some(fact(name, float(value), ""))
    });
    let facts: Vec<Vec<String>> = facts.collect();
    page.table("What happened", &["", "value", "unit"], &facts);
    for note in &sheet.notes {
        page.note(note);
    }
    time_plots(&mut page, &sheet.samples, "done per second");
    for waiting in &sheet.waiting {
        let lines = vec![Line {
            name: waiting.name.to_owned(),
            points: waiting.curve.clone(),
        }];
        percentiles(&mut page, waiting.name, lines);
    }
    page.finish()
}

fn measures(page: &mut Page, measures: &[Measure]) {
    let rows = measures.iter().map(|measure| {
        let better = match measure.better {
            Better::Higher => "more is better",
            Better::Lower => "less is better",
        };
        vec![
            measure.name.clone(),
            digits(measure.value),
            measure.unit.clone(),
            better.to_owned(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    page.table("Result", &["", "value", "unit", ""], &rows);
}

fn saturation(page: &mut Page, saturated: bool) {
    if saturated {
        page.warning(
            "The generator used over 90 % of its core: this may say more of it than of the broker.",
        );
    }
}

fn phase_row(phase: &Phase) -> Vec<String> {
    let optional = |value: Option<f64>| value.map_or(String::new(), digits);
    let mark = if phase.saturated { " (over 90 %)" } else { "" };
    vec![
        phase.name.to_owned(),
        format!("{} {}", phase.count, phase.unit),
        digits(phase.seconds),
        digits(phase.per_second),
        digits(phase.generator_cpu_us_each),
        format!("{:.0} %{mark}", phase.generator_core_share * 100.0),
        optional(phase.broker_cpu_us_each),
        optional(phase.broker_core_share.map(|share| share * 100.0)),
        optional(phase.broker_resident_kib.map(float)),
    ]
}

fn time_plots(page: &mut Page, samples: &[Sample], y_label: &'static str) {
    let plot = |y_label, points| Plot {
        title: y_label_title(y_label),
        x_label: "seconds",
        y_label,
        x_axis: Axis::Linear,
        y_axis: Axis::Linear,
        lines: vec![Line {
            name: String::new(),
            points,
        }],
    };
    if samples.is_empty() {
        return;
    }
    let rates = samples
        .iter()
        .map(|sample| (sample.seconds, sample.per_second));
    page.figure("Over time", &plot(y_label, rates.collect()).svg());
    let memory = samples.iter().filter_map(|sample| {
        let kib = sample.broker_resident_kib?;
        Some((sample.seconds, float(kib) / 1024.0))
    });
    let memory: Vec<(f64, f64)> = memory.collect();
    if !memory.is_empty() {
        page.figure("Memory of the broker", &plot("MiB resident", memory).svg());
    }
}

fn percentiles(page: &mut Page, caption: &str, lines: Vec<Line>) {
    let plot = Plot {
        title: caption.to_owned(),
        x_label: "share that waited no longer",
        y_label: "microseconds",
        x_axis: Axis::Nines,
        y_axis: Axis::Logarithmic,
        lines,
    };
    page.figure(caption, &plot.svg());
}

fn y_label_title(y_label: &str) -> String {
    format!("{y_label} over time")
}

fn fact(name: &str, value: f64, unit: &str) -> Vec<String> {
    vec![name.to_owned(), digits(value), unit.to_owned()]
}

const PHASE_HEADER: [&str; 9] = [
    "phase",
    "done",
    "seconds",
    "per second",
    "generator us each",
    "its core",
    "broker us each",
    "its cores, %",
    "broker KiB",
];

/// Characters of a cell that is kept on one line.
const NOWRAP_MAX: usize = 48;

const STYLE: &str = "\
:root{--fore:#1b1f24;--back:#fff;--soft:#666;--line:#ddd;--c0:#0b63c5;--c1:#d2521c;--c2:#2b8a3e;--c3:#8a3ffc;--c4:#9c6b00;--c5:#0c8599}\
@media(prefers-color-scheme:dark){:root{--fore:#e6e6e6;--back:#16191d;--soft:#9aa0a6;--line:#343a40;--c0:#6cb2ff;--c1:#ff9a62;--c2:#7bd88f;--c3:#c4a1ff;--c4:#e5b93f;--c5:#5ad1dd}}\
body{font:15px/1.45 system-ui,sans-serif;color:var(--fore);background:var(--back);max-width:76rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.05rem;margin:1.8rem 0 .4rem}.work{color:var(--soft);margin-top:.2rem}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{border-bottom:1px solid var(--line);padding:.2rem .7rem;text-align:right;white-space:nowrap;vertical-align:top}\
th.text,td.text{text-align:left}.long{white-space:normal;min-width:16rem}th:first-child,td:first-child{text-align:left;padding-left:0}th{color:var(--soft);font-weight:normal}\
.warning{border-left:4px solid var(--c1);padding:.4rem .8rem;font-weight:bold}figure{margin:0;overflow-x:auto}svg{width:100%;max-width:720px;height:auto}\
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}svg .end{text-anchor:end}svg .middle{text-anchor:middle}.grid{stroke:var(--line)}\
.line{fill:none;stroke-width:1.8}.spread{stroke:var(--fore);stroke-width:1.5}\
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}\
.dot.c0,.bar.c0,svg .name.c0{fill:var(--c0)}.dot.c1,.bar.c1,svg .name.c1{fill:var(--c1)}.dot.c2,.bar.c2,svg .name.c2{fill:var(--c2)}\
.dot.c3,.bar.c3,svg .name.c3{fill:var(--c3)}.dot.c4,.bar.c4,svg .name.c4{fill:var(--c4)}.dot.c5,.bar.c5,svg .name.c5{fill:var(--c5)}";

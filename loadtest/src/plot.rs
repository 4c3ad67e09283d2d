//! Plots as SVG text, made to be put into a page: no fonts, scripts or addresses of anybody else.
//!
//! Comes in: named series of points, or named bars. Goes out: one `<svg>` element, coloured by the classes of `html`. A
//! point that is not finite is left out.

use std::fmt::Write as _;

use crate::report::Spread;
use crate::sheet::digits;

/// Lines over a common x axis.
#[derive(Clone, Debug)]
pub struct Plot {
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub x_axis: Axis,
    pub y_axis: Axis,
    pub lines: Vec<Line>,
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// How values are laid out along an axis.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Axis {
    /// From 0, evenly.
    Linear,
    /// By powers of ten.
    Logarithmic,
    /// Quantiles: 0, 0.9, 0.99, 0.999 at equal distances.
    Nines,
}

/// Values side by side, each with the range it came from.
#[derive(Clone, Debug)]
pub struct Bars {
    pub title: String,
    pub unit: String,
    pub bars: Vec<Bar>,
}

/// One value.
#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    /// None: nothing that counts was measured; its place, and so the colours of the others, stay.
    pub value: Option<Spread>,
}

impl Plot {
    /// Draws it.
    #[must_use]
    pub fn svg(&self) -> String {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let points = points.filter(|(x, y)| x.is_finite() && y.is_finite());
        let (mut x_range, mut y_range) = (Range::EMPTY, Range::EMPTY);
        for (x, y) in points {
            x_range.add(*x);
            y_range.add(*y);
        }
        let x_scale = Scale::new(self.x_axis, x_range, LEFT, WIDTH - RIGHT);
        let y_scale = Scale::new(self.y_axis, y_range, HEIGHT - BOTTOM, TOP);
        let mut out = open(&self.title, WIDTH, HEIGHT);
        for (value, label) in y_scale.ticks() {
            let y = y_scale.place(value);
            let right = WIDTH - RIGHT;
            push(
                &mut out,
                format_args!(
                    "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>"
                ),
            );
            let (x, y) = (LEFT - 6.0, y + 4.0);
            push(
                &mut out,
                format_args!("<text class=\"tick end\" x=\"{x}\" y=\"{y:.1}\">{label}</text>"),
            );
        }
        for (value, label) in x_scale.ticks() {
            let x = x_scale.place(value);
            let bottom = HEIGHT - BOTTOM;
            push(
                &mut out,
                format_args!(
                    "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>"
                ),
            );
            let y = bottom + 16.0;
            push(
                &mut out,
                format_args!("<text class=\"tick middle\" x=\"{x:.1}\" y=\"{y}\">{label}</text>"),
            );
        }
        for (number, line) in self.lines.iter().enumerate() {
            line.draw(&mut out, number % COLOURS, &x_scale, &y_scale);
            if self.lines.len() > 1 {
                let (x, y) = (LEFT + 10.0, TOP + 14.0 + 16.0 * number as f64);
                let name = escape(&line.name);
                push(
                    &mut out,
                    format_args!(
                        "<text class=\"name c{}\" x=\"{x}\" y=\"{y}\">{name}</text>",
                        number % COLOURS
                    ),
                );
            }
        }
        let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
        push(
            &mut out,
            format_args!(
                "<text class=\"label middle\" x=\"{x}\" y=\"{y}\">{}</text>",
                self.x_label
            ),
        );
        push(
            &mut out,
            format_args!(
                "<text class=\"label\" x=\"4\" y=\"14\">{}</text></svg>",
                self.y_label
            ),
        );
        out
    }
}

impl Line {
    fn draw(&self, out: &mut String, colour: usize, x_scale: &Scale, y_scale: &Scale) {
        let finite = self
            .points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite());
        let places: Vec<(f64, f64)> = finite
            .clone()
            .map(|(x, y)| (x_scale.place(*x), y_scale.place(*y)))
            .collect();
        let path: Vec<String> = places
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        push(
            out,
            format_args!(
                "<polyline class=\"line c{colour}\" points=\"{}\"/>",
                path.join(" ")
            ),
        );
        if self.points.len() > DOTS_MAX {
            return;
        }
        for ((x, y), (at_x, at_y)) in finite.zip(places) {
            push(
                out,
                format_args!(
                    "<circle class=\"dot c{colour}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\"><title>{}: {}</title></circle>",
                    digits(*x),
                    digits(*y)
                ),
            );
        }
    }
}

impl Bars {
    /// Draws them.
    #[must_use]
    pub fn svg(&self) -> String {
        let height = BAR_TOP + BAR_STEP * self.bars.len() as f64 + 8.0;
        let mut range = Range::EMPTY;
        for value in self.bars.iter().filter_map(|bar| bar.value) {
            range.add(value.max);
        }
        let scale = Scale::new(Axis::Linear, range, BAR_LEFT, WIDTH - BAR_RIGHT);
        let mut out = open(&self.title, WIDTH, height);
        push(
            &mut out,
            format_args!(
                "<text class=\"label\" x=\"4\" y=\"16\">{} ({})</text>",
                escape(&self.title),
                escape(&self.unit)
            ),
        );
        for (number, bar) in self.bars.iter().enumerate() {
            let y = BAR_TOP + BAR_STEP * number as f64;
            let (text_y, middle) = (y + 13.0, y + 9.0);
            let name = escape(&bar.name);
            push(
                &mut out,
                format_args!(
                    "<text class=\"tick end\" x=\"{}\" y=\"{text_y}\">{name}</text>",
                    BAR_LEFT - 6.0
                ),
            );
            let Some(value) = bar.value else {
                push(
                    &mut out,
                    format_args!(
                        "<text class=\"tick\" x=\"{BAR_LEFT}\" y=\"{text_y}\">void</text>"
                    ),
                );
                continue;
            };
            let width = (scale.place(value.median) - BAR_LEFT).max(1.0);
            push(
                &mut out,
                format_args!(
                    "<rect class=\"bar c{}\" x=\"{BAR_LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\"/>",
                    number % COLOURS
                ),
            );
            let (from, to) = (scale.place(value.min), scale.place(value.max));
            push(
                &mut out,
                format_args!(
                    "<line class=\"spread\" x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\"/>"
                ),
            );
            let x = to.max(BAR_LEFT + width) + 6.0;
            push(
                &mut out,
                format_args!(
                    "<text class=\"tick\" x=\"{x:.1}\" y=\"{text_y}\">{}</text>",
                    digits(value.median)
                ),
            );
        }
        out.push_str("</svg>");
        out
    }
}

#[derive(Clone, Copy, Debug)]
struct Range {
    min: f64,
    max: f64,
}

impl Range {
    const EMPTY: Self = Self {
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
    };

    fn add(&mut self, value: f64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }
}

/// From values to places.
#[derive(Clone, Copy, Debug)]
struct Scale {
    axis: Axis,
    /// The ends of the axis, after `spread`.
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Scale {
    fn new(axis: Axis, range: Range, start: f64, end: f64) -> Self {
        let (min, max) = if range.min <= range.max {
            (range.min, range.max)
        } else {
            (0.0, 1.0)
        };
        let (from, to) = match axis {
            // A tenth of air above.
            Axis::Linear => (min.min(0.0), (max * 1.1).max(min + 1e-9)),
            Axis::Logarithmic => (spread(axis, min).floor(), spread(axis, max).ceil()),
            Axis::Nines => (0.0, spread(axis, max).max(1.0)),
        };
        Self {
            axis,
            from,
            to: if to > from { to } else { from + 1.0 },
            start,
            end,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (spread(self.axis, value) - self.from) / (self.to - self.from);
        self.start + part.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        // A hair, because 1 - 0.999 is not 0.001.
        let whole = |from: f64, to: f64| {
            ((from - HAIR).ceil() as i32..=(to + HAIR).floor() as i32).take(TICKS_MAX)
        };
        match self.axis {
            Axis::Linear => {
                let step = nice((self.to - self.from) / 5.0);
                let first = (self.from / step).ceil();
                let values = (0..TICKS_MAX).map(|number| (first + number as f64) * step);
                let values = values.take_while(|value| *value <= self.to);
                values.map(|value| (value, short(value))).collect()
            }
            Axis::Logarithmic => {
                let values = whole(self.from, self.to).map(|power| 10_f64.powi(power));
                values.map(|value| (value, short(value))).collect()
            }
            Axis::Nines => whole(0.0, self.to)
                .map(|nines| {
                    let value = 1.0 - 10_f64.powi(-nines);
                    let digits = usize::try_from(nines - 2).unwrap_or(0);
                    (value, format!("{:.digits$} %", value * 100.0))
                })
                .collect(),
        }
    }
}

/// A value as its axis lays it out.
fn spread(axis: Axis, value: f64) -> f64 {
    match axis {
        Axis::Linear => value,
        Axis::Logarithmic => value.max(1e-3).log10(),
        Axis::Nines => -(1.0 - value).max(1e-9).log10(),
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.max(1e-12).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= step);
    factor.unwrap_or(10.0) * power
}

/// A few characters: 1.5 M, 20 k.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        magnitude if magnitude >= 1e6 => (value / 1e6, " M"),
        magnitude if magnitude >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    )
}

/// Text that cannot end its element.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("writing to a String does not fail");
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 268.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 42.0;
const BAR_LEFT: f64 = 170.0;
const BAR_RIGHT: f64 = 90.0;
const BAR_TOP: f64 = 26.0;
const BAR_STEP: f64 = 24.0;
const HAIR: f64 = 1e-6;
const TICKS_MAX: usize = 20;
/// More would be a band.
const DOTS_MAX: usize = 120;
const COLOURS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_at_equal_distances() {
        let mut range = Range::EMPTY;
        range.add(0.0);
        range.add(0.999);
        let scale = Scale::new(Axis::Nines, range, 0.0, 300.0);
        let places = [0.0, 0.9, 0.99, 0.999].map(|value| scale.place(value).round());
        assert_eq!(places, [0.0, 100.0, 200.0, 300.0]);
        let labels: Vec<String> = scale.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %"]);
    }

    #[test]
    fn ticks_are_round_and_few() {
        let mut range = Range::EMPTY;
        range.add(0.0);
        range.add(1_234_567.0);
        let ticks = Scale::new(Axis::Linear, range, 0.0, 1.0).ticks();
        let labels: Vec<&str> = ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["0", "500 k", "1 M"]);
    }

    #[test]
    fn a_bar_that_is_void_keeps_its_place_and_the_colours_of_the_others() {
        let bar = |name: &str, value| Bar {
            name: name.to_owned(),
            value,
        };
        let value = Some(Spread::of([4.0].into_iter()));
        let bars = Bars {
            title: "rate".to_owned(),
            unit: "1/s".to_owned(),
            bars: vec![bar("lost", None), bar("kept", value)],
        };
        let svg = bars.svg();
        assert!(svg.contains(">void<") && svg.contains("bar c1"), "{svg}");
        assert!(!svg.contains("bar c0"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_drawn_empty() {
        let plot = Plot {
            title: "<none>".to_owned(),
            x_label: "s",
            y_label: "y",
            x_axis: Axis::Linear,
            y_axis: Axis::Logarithmic,
            lines: vec![Line {
                name: String::new(),
                points: vec![(f64::NAN, 1.0)],
            }],
        };
        let svg = plot.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.contains("&lt;none&gt;") && svg.ends_with("</svg>"));
    }
}

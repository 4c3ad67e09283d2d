//! A bar on standard error while a run lasts, only where that is a terminal.
//!
//! Comes in: how far a phase has come, at most ten times a second. Goes out: nothing that a program could trip over.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar, or none.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar if standard error is a terminal.
    #[must_use]
    pub fn on_terminal() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
        bar.set_style(style.progress_chars("=> "));
        Self { bar }
    }

    /// Draws nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }

    /// A phase begins that is over after `total` steps.
    pub fn begin(&self, name: &str, total: u64) {
        self.bar.reset();
        self.bar.set_length(total.max(1));
        self.bar.set_prefix(name.to_owned());
        self.bar.set_message("");
    }

    /// How far the phase has come.
    pub fn set(&self, position: u64, message: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(message);
            self.bar.set_position(position);
        }
    }

    /// How far a phase of a known length has come, in milliseconds.
    pub fn set_time(&self, position: Duration, message: String) {
        self.set(
            u64::try_from(position.as_millis()).unwrap_or(u64::MAX),
            message,
        );
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

const TEMPLATE: &str = "{prefix:20!} [{bar:30}] {percent:>3} % {elapsed:>4} {msg}";

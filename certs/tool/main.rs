//! `nightjar-certs`: a private certificate authority for a broker and its devices, for people who have never used another.
//!
//! Arguments in, files and a report out; exit code 0, 1 for what the system refused, 3 for what was asked wrongly. `commands` does what is
//! asked, `authority` signs, `index` remembers, `place` writes files, `facts` reads certificates. No key is ever printed.

mod authority;
mod cli;
mod commands;
mod esp;
mod facts;
mod fault;
mod index;
mod place;
mod provisioning;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use jiff::Timestamp;

use crate::cli::Arguments;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap. Whoever closed the pipe has read enough.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_INVALID),
            };
        }
    };
    match commands::run(arguments, Timestamp::now()) {
        Ok(report) => {
            let _ = io::stdout().write_all(report.as_bytes());
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("Error: {fault}.");
            ExitCode::from(fault.exit_code())
        }
    }
}

const EXIT_INVALID: u8 = 3;

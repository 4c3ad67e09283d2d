//! The `nightjar` command: arguments in, exit code out (0, 1 for what the system refused, 3 for what was asked wrongly).

use std::process::ExitCode;

use nightjar::cli::{self, EXIT_INVALID, Invocation};
use nightjar::{logging, server};

fn main() -> ExitCode {
    let start = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Run(start)) => start,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::from(EXIT_INVALID);
        }
    };
    logging::init(start.settings.log_level);
    start.log();
    match server::run(start.settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

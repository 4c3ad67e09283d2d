//! The `nightjar` command: arguments in, exit code out (0, 1 for what the system refused, 3 for what was asked wrongly).

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use nightjar::acl::{self, AclArguments};
use nightjar::auth::passwd::{self, PasswdArguments};
use nightjar::cli::{self, EXIT_INVALID, Invocation};
use nightjar::process::{self, ProcessError};
use nightjar::server::ServerError;
use nightjar::store::{self, StoreError};
use nightjar::{logging, server};

fn main() -> ExitCode {
    let start = match cli::parse(std::env::args_os()) {
        Ok(Invocation::Run(start)) => start,
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Store(arguments)) => return run_store(*arguments),
        Ok(Invocation::Passwd(arguments)) => return run_passwd(&arguments),
        Ok(Invocation::Acl(arguments)) => return run_acl(&arguments),
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    if let Err(error) = process::set_umask() {
        eprintln!("Error: {error}");
        return ExitCode::from(EXIT_INVALID);
    }
    if start.daemon {
        if !process::is_in_background() {
            return process::run_in_background();
        }
        process::leave_terminal();
    }
    logging::init(&start.settings);
    start.log();
    match server::run(*start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            match error {
                ServerError::Passwords(_)
                | ServerError::Rules(_)
                | ServerError::Process(
                    ProcessError::UnknownUser(_) | ProcessError::NotANumber { .. },
                ) => ExitCode::from(EXIT_INVALID),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run_acl(arguments: &AclArguments) -> ExitCode {
    match acl::run(arguments) {
        Ok(outcome) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(outcome.report.as_bytes());
            if outcome.well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(EXIT_INVALID)
        }
    }
}

fn run_passwd(arguments: &PasswdArguments) -> ExitCode {
    match passwd::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_store(arguments: store::StoreArguments) -> ExitCode {
    // Of a damaged file the database asserts what is not so. The storage crate makes errors of that; nobody is to see more of it.
    panic::set_hook(Box::new(|_| {}));
    let Ok(result) = panic::catch_unwind(|| store::run(arguments)) else {
        eprintln!("Error: a fault of this program; nothing was changed in the store's file.");
        return ExitCode::FAILURE;
    };
    match result {
        Ok(outcome) => {
            // Whoever closed the pipe has read enough.
            let _ = io::stdout().write_all(outcome.report.as_bytes());
            if outcome.well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("Error: {error}");
            match error {
                StoreError::Usage(_) => ExitCode::from(EXIT_INVALID),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

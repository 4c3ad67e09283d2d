//! Manual pages and shell completions, made of the command line itself, so that they cannot be false.
//!
//! In: the definition of the command line. Out: text for standard output, which packages put where their system wants it.

use clap::{Args, Command};
use clap_complete::Shell;

/// Print the manual page of nightjar, or of one of its commands
#[derive(Args, Clone, Debug)]
pub struct ManArguments {
    /// The page of this command, such as: store backup
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Print what a shell needs to complete commands and options
#[derive(Args, Clone, Debug)]
pub struct CompletionsArguments {
    #[arg(value_enum)]
    shell: Shell,
}

/// A manual page in roff. `None`: there is no such command.
pub fn page(arguments: &ManArguments, mut root: Command) -> Option<String> {
    // So that each page knows the whole name of its command.
    root.build();
    let mut command = &root;
    for word in &arguments.command {
        command = command.find_subcommand(word)?;
    }
    let command = command.clone().version(crate::cli::VERSION);
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut text);
    rendered.expect("memory takes what is written to it");
    String::from_utf8(text).ok()
}

/// The script of one shell.
pub fn completions(arguments: &CompletionsArguments, mut root: Command) -> String {
    let name = root.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut root, name, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

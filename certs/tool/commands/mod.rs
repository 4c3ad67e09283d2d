//! What is asked for: one file for commands that belong together. Each gives back what it has to say.

mod init;
mod issue;
mod look;
mod renew;
mod revoke;

use jiff::Timestamp;

use crate::cli::{Arguments, Command};
use crate::fault::Fault;
use crate::place::Place;

pub(crate) fn run(arguments: Arguments, now: Timestamp) -> Result<String, Fault> {
    let place = Place::new(arguments.dir);
    match arguments.command {
        Command::Init(asked) => init::init(&place, &asked, now),
        Command::Server(asked) => issue::server(&place, &asked, now),
        Command::Device(asked) => issue::device(&place, &asked, now),
        Command::Batch(asked) => issue::batch(&place, &asked, now),
        Command::Renew(asked) => renew::renew(&place, &asked, now),
        Command::Revoke(asked) => revoke::revoke(&place, &asked, now),
        Command::Crl(asked) => revoke::refresh(&place, asked, now),
        Command::List(asked) => look::list(&place, &asked, now),
        Command::Show(asked) => look::show(&place, &asked.which, now),
        Command::Fingerprint(asked) => look::fingerprint(&place, &asked.which),
    }
}

/// The day of a moment, as reports have it.
fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}

//! `list`, `show` and `fingerprint`: nothing is changed, and no key is needed.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::cli::List;
use crate::commands::{day, issue, revoke};
use crate::facts::Facts;
use crate::fault::Fault;
use crate::index::Index;
use crate::place::Place;

pub(crate) fn list(place: &Place, asked: &List, now: Timestamp) -> Result<String, Fault> {
    let index = Index::load(place)?;
    let mut report = String::new();
    if asked.json {
        for entry in &index.entries {
            let mut line =
                serde_json::to_value(entry).map_err(|error| Fault::file(&place.index(), error))?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("status".into(), entry.status(now).word().into());
            }
            let _ = writeln!(report, "{line}");
        }
        return Ok(report);
    }
    let width = index.entries.iter().map(|entry| entry.id.len()).max();
    let width = width.unwrap_or_default().max("ID".len());
    let _ = writeln!(
        report,
        "{:width$}  KIND    STATUS    EXPIRES     SERIAL                            SHA-256",
        "ID"
    );
    for entry in &index.entries {
        let _ = writeln!(
            report,
            "{:width$}  {:6}  {:8}  {}  {:32}  {}",
            entry.id,
            revoke::what(entry.kind),
            entry.status(now).word(),
            day(entry.not_after),
            entry.serial,
            entry.certificate_sha256
        );
    }
    match revoke::current(place) {
        Some((_, next)) if next <= now => {
            let _ = writeln!(
                report,
                "ca.crl ended on {}: a broker that reads it lets nobody in. nightjar-certs crl writes a new one.",
                day(next)
            );
        }
        Some((_, next)) if next < now + SignedDuration::from_hours(30 * 24) => {
            let _ = writeln!(
                report,
                "ca.crl ends on {}; nightjar-certs crl writes a new one.",
                day(next)
            );
        }
        Some(_) => {}
        None => report += "ca.crl cannot be read; nightjar-certs crl writes a new one.\n",
    }
    Ok(report)
}

pub(crate) fn show(place: &Place, which: &str, now: Timestamp) -> Result<String, Fault> {
    let (path, facts) = read(place, which)?;
    let mut report = format!("{}\n", path.display());
    let mut line = |name: &str, value: &str| {
        // What stands in a certificate of somebody else must not reach the terminal as it is.
        let _ = writeln!(report, "  {name:22}{}", escaped(value));
    };
    line("subject", &facts.subject);
    if !facts.alternative_names.is_empty() {
        line("alternative names", &facts.alternative_names.join(", "));
    }
    line("issuer", &facts.issuer);
    line("serial number", &facts.serial);
    line("valid from", &facts.not_before.to_string());
    line("valid until", &facts.not_after.to_string());
    let status = Index::load(place).ok().and_then(|index| {
        let known = index
            .entries
            .iter()
            .find(|entry| entry.certificate_sha256 == facts.certificate_sha256);
        known.map(|entry| entry.status(now).word())
    });
    let by_date = if now < facts.not_before {
        "not valid yet"
    } else if now > facts.not_after {
        "expired"
    } else {
        "not in the index; by its dates valid"
    };
    line("status", status.unwrap_or(by_date));
    let mut uses = facts.uses.join(", ");
    if facts.is_authority {
        uses = "authority: signs certificates".into();
    }
    line("use", if uses.is_empty() { "not said" } else { &uses });
    line("key", &facts.key);
    line("SHA-256", &facts.certificate_sha256);
    line("SHA-256 of public key", &facts.public_key_sha256);
    Ok(report)
}

pub(crate) fn fingerprint(place: &Place, which: &str) -> Result<String, Fault> {
    let (_, facts) = read(place, which)?;
    Ok(format!(
        "certificate  {}\npublic key   {}\n",
        facts.certificate_sha256, facts.public_key_sha256
    ))
}

/// A file if there is one of this name, else what the index knows by it, else the authority.
fn read(place: &Place, which: &str) -> Result<(PathBuf, Facts), Fault> {
    let mut path = PathBuf::from(which);
    if !Path::new(which).is_file() {
        let index = Index::load(place)?;
        let of_authority = place.directory(&format!("{which}.crt"));
        path = match index.find(which) {
            Ok(found) => {
                let entry = index.at(found.last().copied().unwrap_or_default());
                let (newest, _) = issue::files(place, entry.kind, &entry.id);
                // One that was replaced lies beside it, under its serial number.
                let stem = newest.file_stem().unwrap_or_default().to_string_lossy();
                let kept = newest.with_file_name(format!("{stem}.{}.crt", entry.serial));
                if kept.is_file() { kept } else { newest }
            }
            Err(_) if ["ca", "issuing"].contains(&which) && of_authority.is_file() => of_authority,
            Err(Fault::Refused(_)) => {
                return Err(Fault::refused(format!(
                    "{which} is no file, no id and no serial number; `nightjar-certs list` shows them"
                )));
            }
            Err(fault) => return Err(fault),
        };
    }
    let bytes = fs::read(&path).map_err(|error| Fault::file(&path, error))?;
    let facts = Facts::from_bytes(&bytes).map_err(|why| Fault::file(&path, why))?;
    Ok((path, facts))
}

fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let plain = (!character.is_control()).then_some(character);
            let control = character.is_control().then(|| character.escape_default());
            plain.into_iter().chain(control.into_iter().flatten())
        })
        .collect()
}

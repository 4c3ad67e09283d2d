//! `revoke` and `crl`: the list of certificates that are void.

use std::fs;

use jiff::{SignedDuration, Timestamp};

use crate::authority::Authority;
use crate::cli::{Crl, Revoke};
use crate::commands::day;
use crate::facts;
use crate::fault::Fault;
use crate::index::{Entry, Index, Kind, Status};
use crate::place::{self, Over, Place, Readers};

pub(crate) fn revoke(place: &Place, asked: &Revoke, now: Timestamp) -> Result<String, Fault> {
    let _lock = locked(place)?;
    let mut index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let found = index.find(&asked.which)?;
    // All certificates of an id: who wants a device out does not mean its newest certificate only.
    let mut report = String::new();
    for at in found {
        let entry = &mut index.entries[at];
        if matches!(entry.status(now), Status::Valid | Status::Replaced) {
            entry.revoked = Some(now);
            report += &format!("Revoked {} of {}.\n", entry.serial, entry.id);
        }
    }
    // Written also when nothing is new: a run that was cut off may have left the index ahead of the list.
    index.save(place)?;
    let next = write_list(place, &authority, &index, asked.list.days, now)?;
    if report.is_empty() {
        report = format!("{} has no certificate that is still valid.\n", asked.which);
    }
    report += &format!(
        "{} says so to the broker, which sees within two seconds that it has changed; it is valid until {}.\n",
        place.revocation_list().display(),
        day(next)
    );
    Ok(report)
}

pub(crate) fn refresh(place: &Place, asked: Crl, now: Timestamp) -> Result<String, Fault> {
    let _lock = locked(place)?;
    let index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let next = write_list(place, &authority, &index, asked.days, now)?;
    let revoked = index.entries.iter().filter(|entry| is_listed(entry, now));
    Ok(format!(
        "{}: {} revoked, valid until {}.\n",
        place.revocation_list().display(),
        revoked.count(),
        day(next)
    ))
}

/// Writes the list anew where half of its life is over: whoever uses the tool now and then need not think of it.
pub(crate) fn keep_fresh(
    place: &Place,
    authority: &Authority,
    index: &Index,
    now: Timestamp,
) -> Result<(), Fault> {
    let half = SignedDuration::from_hours(i64::from(LIST_DAYS) * 12);
    // Its number is the moment it was written, or a little more.
    let lacks_some = |number: u64| {
        let written = i64::try_from(number).unwrap_or(i64::MAX);
        let listed = index.entries.iter().filter(|entry| is_listed(entry, now));
        let mut ends = listed.filter_map(|entry| entry.grace_until);
        ends.any(|end| end.as_second() >= written)
    };
    match current(place) {
        Some((number, next)) if next > now + half && !lacks_some(number) => {
            write_replaced(place, index, now)
        }
        _ => write_list(place, authority, index, LIST_DAYS, now).map(drop),
    }
}

/// Tells the broker which certificates others took the place of, and until when each of them is let in.
fn write_replaced(place: &Place, index: &Index, now: Timestamp) -> Result<(), Fault> {
    let mut text = String::from(
        "# Certificates that others took the place of: serial number, the moment until which it is let in, device.\n\
         # For the broker: replaced_file in [listeners.tls]. Written by nightjar-certs.\n",
    );
    for entry in &index.entries {
        let is_replaced = entry.replaced_by.is_some() && entry.revoked.is_none();
        if is_replaced && entry.kind == Kind::Device && entry.not_after > now {
            let until = entry.grace_until.unwrap_or(entry.not_after);
            text += &format!("{} {until} {}\n", entry.serial, entry.id);
        }
    }
    let path = place.replaced_list();
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    place::write(&path, text.as_bytes(), Readers::Everybody, Over::Anything)
}

/// Writes the list, and says when it ends.
pub(crate) fn write_list(
    place: &Place,
    authority: &Authority,
    index: &Index,
    days: u32,
    now: Timestamp,
) -> Result<Timestamp, Fault> {
    let next = now
        .checked_add(SignedDuration::from_hours(i64::from(days) * 24))
        .map_err(|_| Fault::asked(format!("{days} days is too long")))?;
    // RFC 5280, 5.2.3: each list has a higher number than the one before, also if that one was lost.
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let number =
        current(place).map_or(seconds, |(number, _)| number.saturating_add(1).max(seconds));
    let listed: Vec<Entry> = index
        .entries
        .iter()
        .filter(|entry| is_listed(entry, now))
        .cloned()
        .collect();
    let text = authority.revocation_list(&listed, number, now, next)?;
    place::write(
        &place.revocation_list(),
        text.as_bytes(),
        Readers::Everybody,
        Over::Anything,
    )?;
    write_replaced(place, index, now)?;
    Ok(next)
}

/// The number of the list that is there, and when it ends.
pub(crate) fn current(place: &Place) -> Option<(u64, Timestamp)> {
    facts::revocation_list(&fs::read(place.revocation_list()).ok()?)
}

/// What has expired for long needs no list; clocks differ.
fn is_listed(entry: &Entry, now: Timestamp) -> bool {
    entry.is_void(now) && entry.not_after + SignedDuration::from_hours(30 * 24) > now
}

/// The lock of an authority that must be there.
pub(crate) fn locked(place: &Place) -> Result<place::Lock, Fault> {
    // Says that there is no authority where there is none, before a file is made.
    Index::load(place)?;
    place.lock()
}

/// In the words of a report.
pub(crate) fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Server => "server",
        Kind::Device => "device",
    }
}

/// For how long a list is valid. When it has ended nobody is let in, so it is long; a broker reads a new one whenever there is one.
pub(crate) const LIST_DAYS: u32 = 365;

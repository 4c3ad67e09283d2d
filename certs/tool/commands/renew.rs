//! `renew`: a new certificate for the same names, and for the same key unless a new one is asked for.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use rcgen::SubjectPublicKeyInfo;

use crate::authority::{self, Authority, Subject};
use crate::cli::Renew;
use crate::commands::issue::{self, DEVICE_DAYS, SERVER_DAYS};
use crate::commands::{day, revoke};
use crate::esp;
use crate::facts::Facts;
use crate::fault::Fault;
use crate::index::{Index, Kind, Status};
use crate::place::{self, Over, Place, Readers};

pub(crate) fn renew(place: &Place, asked: &Renew, now: Timestamp) -> Result<String, Fault> {
    let _lock = revoke::locked(place)?;
    let mut index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let newest = index.find(&asked.which)?.pop();
    let Some(old) = newest.map(|at| index.at(at).clone()) else {
        return Err(Fault::refused(format!("{} was never issued", asked.which)));
    };
    let what = revoke::what(old.kind);
    let status = old.status(now);
    match status {
        Status::Revoked => {
            return Err(Fault::refused(format!(
                "the certificate of {} was revoked; `nightjar-certs {what} {} --force` makes another",
                old.id, old.id
            )));
        }
        Status::Replaced => {
            return Err(Fault::refused(format!(
                "{} has a newer certificate; renew that one: nightjar-certs renew {}",
                old.serial, old.id
            )));
        }
        Status::Valid | Status::Expired => {}
    }
    let subject = Subject {
        kind: old.kind,
        id: old.id.clone(),
        names: old.names.clone(),
        site: old.site.clone(),
        tenant: old.tenant.clone(),
    };
    let usual = match old.kind {
        Kind::Server => SERVER_DAYS,
        Kind::Device => DEVICE_DAYS,
    };
    let validity = authority.validity(now, asked.days, usual)?;
    let (certificate, key) = issue::files(place, old.kind, &old.id);
    let bytes = fs::read(&certificate).map_err(|error| Fault::file(&certificate, error))?;
    let facts = Facts::from_bytes(&bytes).map_err(|why| Fault::file(&certificate, why))?;
    // Usually the same. A run that was cut off before it wrote the file has left the index ahead, and what is on the device is what counts.
    let known = index.entries.iter().find(|entry| {
        entry.certificate_sha256 == facts.certificate_sha256
            && entry.kind == old.kind
            && entry.id == old.id
    });
    let Some(old) = known.cloned() else {
        return Err(Fault::file(
            &certificate,
            format!("this is no certificate of {what} {} in the index", old.id),
        ));
    };
    if old.is_void(now) {
        return Err(Fault::file(&certificate, "this certificate was revoked"));
    }
    // What is replaced stays readable under its serial number.
    let kept = certificate.with_file_name(format!("{}.{}.crt", stem(&certificate), old.serial));
    place::write(&kept, &bytes, Readers::Everybody, Over::Anything)?;
    let (issued, entry, new_key) = if asked.new_key {
        let new_key = authority::new_key()?;
        let (issued, entry) = authority.issue(&subject, &new_key, validity)?;
        // The key that is replaced is still needed where its certificate is.
        let kept = key.with_file_name(format!("{}.{}.key", stem(&key), old.serial));
        if let Ok(bytes) = fs::read(&key) {
            place::write(&kept, &bytes, Readers::Owner, Over::Anything)?;
        }
        (issued, entry, Some(new_key))
    } else {
        // The public key is all that signing needs: the device may be the only one who has the other.
        let public = SubjectPublicKeyInfo::from_der(&facts.public_key)
            .map_err(|error| Fault::file(&certificate, error))?;
        let (issued, entry) = authority.issue(&subject, &public, validity)?;
        (issued, entry, None)
    };
    let mut report = format!(
        "Made a new certificate of {what} {}, valid until {}, {}:\n  {}\n",
        old.id,
        day(entry.not_after),
        if asked.new_key {
            "with a new key"
        } else {
            "for the same key"
        },
        certificate.display()
    );
    let grace_until = asked.grace_days.map(|days| {
        let end = now.checked_add(SignedDuration::from_hours(i64::from(days) * 24));
        let end = end.unwrap_or(old.not_after).min(old.not_after);
        // The broker's file is for people, too.
        Timestamp::from_second(end.as_second()).unwrap_or(end)
    });
    if old.not_after > now {
        report += &format!(
            "The one before is let in until {}, too, and the broker warns when it is used; nightjar-certs revoke {} ends it.\n",
            day(grace_until.unwrap_or(old.not_after)),
            old.serial
        );
    }
    index.add(entry);
    let replaced = index
        .entries
        .iter_mut()
        .find(|entry| entry.serial == old.serial);
    if let Some(replaced) = replaced {
        replaced.grace_until = grace_until.filter(|end| *end < replaced.not_after);
    }
    index.save(place)?;
    let over = Over::Anything;
    issue::write_pair(place, &authority, &subject, &issued, new_key.as_ref(), over)?;
    revoke::keep_fresh(place, &authority, &index, now)?;
    if old.kind == Kind::Device {
        report += &esp::renew(place, &authority, &old.id, &issued, new_key.as_ref())?;
    }
    Ok(report)
}

fn stem(path: &std::path::Path) -> String {
    path.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

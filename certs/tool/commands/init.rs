//! `init`: an authority, an empty index and an empty list of revoked certificates.

use jiff::Timestamp;

use crate::authority::{self, Authority, COMMON_NAME_BYTES_MAX};
use crate::cli::Init;
use crate::commands::revoke;
use crate::fault::Fault;
use crate::index::Index;
use crate::place::{self, Over, Place, Readers};

pub(crate) fn init(place: &Place, asked: &Init, now: Timestamp) -> Result<String, Fault> {
    let name = match &asked.name {
        Some(name) => name.clone(),
        // Two authorities of one name confuse programs and people.
        None => format!("Nightjar CA {}", authority::random_name()?),
    };
    let length_max = COMMON_NAME_BYTES_MAX - " issuing".len();
    if name.is_empty() || name.len() > length_max || name.chars().any(char::is_control) {
        return Err(Fault::asked(format!(
            "--name: expected plain text of 1 to {length_max} bytes"
        )));
    }
    place::make_directory(place.root())?;
    let _lock = place.lock()?;
    let files = [
        place.root_certificate(),
        place.root_key(),
        place.issuing_certificate(),
        place.issuing_key(),
        place.index(),
        place.revocation_list(),
        place.replaced_list(),
    ];
    if files.iter().any(|file| file.symlink_metadata().is_ok()) {
        if !place.index().exists() {
            return Err(Fault::refused(format!(
                "{} has a part of an authority, but no index.jsonl: if that is what is left of an `init` that was cut off, remove it",
                place.root().display()
            )));
        }
        // Whoever writes over an authority locks out every device that has a certificate of it.
        return Err(Fault::refused(format!(
            "there is an authority in {} already, and nothing writes over one; --dir names another directory",
            place.root().display()
        )));
    }
    let made = authority::create(&name, asked.issuing, now)?;
    let [
        root_certificate,
        root_key,
        issuing_certificate,
        issuing_key,
        ..,
    ] = &files;
    let targets = [
        (root_certificate, root_key),
        (issuing_certificate, issuing_key),
    ];
    for (made, (certificate, key)) in made.iter().zip(targets) {
        place::write(key, made.key.as_bytes(), Readers::Owner, Over::Nothing)?;
        let text = made.certificate.as_bytes();
        place::write(certificate, text, Readers::Everybody, Over::Nothing)?;
    }
    let index = Index::empty();
    let authority = Authority::open(place)?;
    revoke::write_list(place, &authority, &index, revoke::LIST_DAYS, now)?;
    // Last: where the index is, the authority is whole.
    index.save(place)?;
    let root = place.root().display();
    let mut report = format!(
        "Made the authority \"{name}\" in {root}:\n  ca.crt  what brokers and devices trust; give it to everybody\n  ca.key  who has this can make devices; keep it, and keep it secret\n  ca.crl  what has been revoked: nothing yet\n"
    );
    if asked.issuing {
        report +=
            "The authority that signs is issuing.crt; ca.key can be moved to a safe place now.\n";
    }
    report += "Next: nightjar-certs server NAME, with the name by which devices call the broker.\n";
    Ok(report)
}

//! `server`, `device` and `batch`: certificates with new keys.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use rcgen::{Certificate, KeyPair};

use crate::authority::{self, Authority, Subject};
use crate::cli::{Batch, Device, Server};
use crate::commands::{day, revoke};
use crate::esp::{self, Settings, Wifi};
use crate::fault::Fault;
use crate::index::{Entry, Index, Kind};
use crate::place::{self, Over, Place, Readers};

pub(crate) fn server(place: &Place, asked: &Server, now: Timestamp) -> Result<String, Fault> {
    let subject = of_server(asked)?;
    let _lock = revoke::locked(place)?;
    let mut index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let over = Over::forced(asked.made.force);
    let (certificate, key) = files(place, subject.kind, &subject.id);
    if over == Over::Nothing {
        place::must_be_absent(&[&certificate, &key])?;
    }
    let validity = authority.validity(now, asked.made.days, SERVER_DAYS)?;
    let new_key = authority::new_key()?;
    let (issued, entry) = authority.issue(&subject, &new_key, validity)?;
    let mut report = format!(
        "Made the certificate of a server, valid until {}, for {}:\n  {}\n  {}  (secret)\n",
        day(entry.not_after),
        subject.names.join(", "),
        certificate.display(),
        key.display()
    );
    index.add(entry);
    index.save(place)?;
    write_pair(place, &authority, &subject, &issued, Some(&new_key), over)?;
    revoke::keep_fresh(place, &authority, &index, now)?;
    report += &broker_configuration(place, &certificate, &key)?;
    report += "Next: nightjar-certs device ID, for the first device.\n";
    Ok(report)
}

pub(crate) fn device(place: &Place, asked: &Device, now: Timestamp) -> Result<String, Fault> {
    let subject = of_device(&asked.id, asked.site.as_deref(), asked.tenant.as_deref())?;
    let _lock = revoke::locked(place)?;
    let mut index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let over = Over::forced(asked.made.force);
    let (certificate, key) = files(place, subject.kind, &subject.id);
    let settings = esp_settings(&index, &asked.esp)?;
    if over == Over::Nothing {
        place::must_be_absent(&[&certificate, &key])?;
        if settings.is_some() {
            place::must_be_absent(&[&esp::directory(place, &subject.id)])?;
        }
    }
    let validity = authority.validity(now, asked.made.days, DEVICE_DAYS)?;
    let new_key = authority::new_key()?;
    let (issued, entry) = authority.issue(&subject, &new_key, validity)?;
    let mut report = format!(
        "Made the certificate of the device {}, valid until {}:\n  {}\n  {}  (secret)\n",
        subject.id,
        day(entry.not_after),
        certificate.display(),
        key.display()
    );
    index.add(entry);
    index.save(place)?;
    write_pair(place, &authority, &subject, &issued, Some(&new_key), over)?;
    if let Some(settings) = &settings {
        report += &esp::write(
            place, &authority, settings, &subject, &issued, &new_key, over,
        )?;
    }
    revoke::keep_fresh(place, &authority, &index, now)?;
    if over == Over::Anything {
        report += "A certificate that it had before is valid as long as it was; `nightjar-certs list` shows it, `revoke SERIAL` ends it.\n";
    }
    Ok(report)
}

pub(crate) fn batch(place: &Place, asked: &Batch, now: Timestamp) -> Result<String, Fault> {
    let wanted = read_batch(&asked.file)?;
    let _lock = revoke::locked(place)?;
    let mut index = Index::load(place)?;
    let authority = Authority::open(place)?;
    let settings = esp_settings(&index, &asked.esp)?;
    let validity = authority.validity(now, asked.days, DEVICE_DAYS)?;
    let total = wanted.len();
    let missing: Vec<Subject> = wanted
        .into_iter()
        .filter(|subject| {
            let (certificate, key) = files(place, subject.kind, &subject.id);
            !certificate.exists() && !key.exists()
        })
        .collect();
    // Shows nothing where standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta})");
    let bar = ProgressBar::new(missing.len().try_into().unwrap_or(u64::MAX))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    for some in missing.chunks(AT_ONCE) {
        let mut made = Vec::with_capacity(some.len());
        for subject in some {
            let key = authority::new_key()?;
            let (issued, entry) = authority.issue(subject, &key, validity)?;
            index.add(entry);
            made.push((subject, issued, key));
        }
        index.save(place)?;
        for (subject, issued, key) in made {
            bar.set_message(subject.id.clone());
            let over = Over::Nothing;
            write_pair(place, &authority, subject, &issued, Some(&key), over)?;
            if let Some(settings) = &settings {
                esp::write(place, &authority, settings, subject, &issued, &key, over)?;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    revoke::keep_fresh(place, &authority, &index, now)?;
    let mut report = format!(
        "Made {} certificates, valid until {}, in {}",
        missing.len(),
        day(validity.not_after),
        place.directory("devices").display()
    );
    if missing.len() < total {
        let _ = write!(report, "; {} were there already", total - missing.len());
    }
    report += ".\n";
    Ok(report)
}

/// Where the certificate and the key of somebody lie.
pub(crate) fn files(place: &Place, kind: Kind, id: &str) -> (PathBuf, PathBuf) {
    let directory = place.directory(match kind {
        Kind::Server => "servers",
        Kind::Device => "devices",
    });
    // Of a server: `*.example.com`, `::1`. A device's id has neither.
    let name = id.replace('*', "_").replace(':', "-");
    (
        directory.join(format!("{name}.crt")),
        directory.join(format!("{name}.key")),
    )
}

/// The key first: a certificate whose key is not there would look as if it could be used.
pub(crate) fn write_pair(
    place: &Place,
    authority: &Authority,
    subject: &Subject,
    issued: &Certificate,
    new_key: Option<&KeyPair>,
    over: Over,
) -> Result<(), Fault> {
    let (certificate, key) = files(place, subject.kind, &subject.id);
    if let Some(directory) = certificate.parent() {
        place::make_directory(directory)?;
    }
    if let Some(new_key) = new_key {
        let text = new_key.serialize_pem();
        place::write(&key, text.as_bytes(), Readers::Owner, over)?;
    }
    let chain = issued.pem() + authority.chain();
    place::write(&certificate, chain.as_bytes(), Readers::Everybody, over)
}

fn of_server(asked: &Server) -> Result<Subject, Fault> {
    let mut names: Vec<String> = Vec::new();
    let given = asked.names.iter().cloned();
    for name in given.chain(asked.ip.iter().map(IpAddr::to_string)) {
        if name.parse::<IpAddr>().is_err() {
            check_host_name(&name)?;
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // Whoever calls this machine localhost means its addresses, too.
    if names.iter().any(|name| name == "localhost") {
        for address in ["127.0.0.1", "::1"] {
            if !names.iter().any(|name| name == address) {
                names.push(address.into());
            }
        }
    }
    let id = names.first().cloned();
    Ok(Subject {
        kind: Kind::Server,
        id: id.ok_or_else(|| Fault::asked("a server needs a name"))?,
        names,
        site: None,
        tenant: None,
    })
}

fn check_host_name(name: &str) -> Result<(), Fault> {
    let part_is_good = |part: &str| {
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let parts = name.strip_prefix("*.").unwrap_or(name);
    if name.len() <= 253 && parts.split('.').all(part_is_good) {
        return Ok(());
    }
    Err(Fault::asked(format!(
        "{name:?} is no host name and no address"
    )))
}

/// A device, by names that mean the same to everybody: in a topic, a file name, a rule and a log.
fn of_device(id: &str, site: Option<&str>, tenant: Option<&str>) -> Result<Subject, Fault> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins_well = id.bytes().next().is_some_and(|byte| {
        // Not a hidden file, not an option.
        byte.is_ascii_alphanumeric() || byte == b'_'
    });
    if !begins_well || id.len() > COMMON_NAME_MAX || !id.bytes().all(is_good) {
        return Err(Fault::asked(format!(
            "{id:?} is no id of a device: 1 to {COMMON_NAME_MAX} of the letters a-z, A-Z, digits, - _ and ., beginning with a letter, digit or _"
        )));
    }
    let group = |what: &str, name: Option<&str>| match name {
        None => Ok(None),
        Some(name)
            if !name.is_empty()
                && name.len() <= COMMON_NAME_MAX
                && !name.chars().any(char::is_control) =>
        {
            Ok(Some(name.to_owned()))
        }
        Some(name) => Err(Fault::asked(format!(
            "{name:?} is no {what}: expected plain text of 1 to {COMMON_NAME_MAX} bytes"
        ))),
    };
    Ok(Subject {
        kind: Kind::Device,
        id: id.to_owned(),
        names: Vec::new(),
        site: group("site", site)?,
        tenant: group("tenant", tenant)?,
    })
}

/// All rows or none: every fault of the file is told at once.
fn read_batch(file: &Path) -> Result<Vec<Subject>, Fault> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_path(file)
        .map_err(|error| Fault::file(file, error))?;
    let columns = reader
        .headers()
        .map_err(|error| Fault::file(file, error))?
        .clone();
    let column = |name: &str| columns.iter().position(|column| column == name);
    let known = ["id", "site", "tenant"];
    if let Some(unknown) = columns.iter().find(|column| !known.contains(column)) {
        return Err(Fault::asked(format!(
            "{}: column {unknown:?} is not known; the first line names the columns id, site, tenant",
            file.display()
        )));
    }
    let Some(id) = column("id") else {
        return Err(Fault::asked(format!(
            "{}: there is no column id; the first line names the columns id, site, tenant",
            file.display()
        )));
    };
    let (site, tenant) = (column("site"), column("tenant"));
    let mut subjects: Vec<Subject> = Vec::new();
    let mut ids = BTreeSet::new();
    let mut faults = Vec::new();
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                faults.push(error.to_string());
                continue;
            }
        };
        if subjects.len() == BATCH_MAX {
            faults.push(format!("more than {BATCH_MAX} devices"));
            break;
        }
        let line = row.position().map_or(0, csv::Position::line);
        let field = |place: Option<usize>| {
            let text = place.and_then(|place| row.get(place));
            text.filter(|text| !text.is_empty())
        };
        match of_device(
            field(Some(id)).unwrap_or_default(),
            field(site),
            field(tenant),
        ) {
            Ok(subject) if !ids.insert(subject.id.clone()) => {
                faults.push(format!("line {line}: {} is there twice", subject.id));
            }
            Ok(subject) => subjects.push(subject),
            Err(fault) => faults.push(format!("line {line}: {fault}")),
        }
    }
    if faults.is_empty() {
        return Ok(subjects);
    }
    let more = faults.len().saturating_sub(FAULTS_SHOWN);
    faults.truncate(FAULTS_SHOWN);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    Err(Fault::asked(format!(
        "{}: nothing was made:\n  {}",
        file.display(),
        faults.join("\n  ")
    )))
}

fn esp_settings(index: &Index, asked: &crate::cli::Esp) -> Result<Option<Settings>, Fault> {
    if !asked.esp {
        return Ok(None);
    }
    let newest = |entry: &&Entry| entry.kind == Kind::Server;
    let server = index.entries.iter().rev().find(newest);
    let host = match (&asked.broker, server) {
        (Some(host), _) => {
            if host.parse::<IpAddr>().is_err() {
                check_host_name(host)?;
            }
            host.clone()
        }
        (None, Some(entry)) => entry.id.clone(),
        (None, None) => {
            return Err(Fault::asked(
                "--esp needs --broker HOST as long as there is no server certificate",
            ));
        }
    };
    Ok(Some(Settings {
        host,
        port: asked.port,
        wifi: wifi(asked)?,
        more: match &asked.esp_config {
            Some(path) => more(path)?,
            None => String::new(),
        },
    }))
}

/// It must end up in one entry of the blob, and in a chip's memory.
fn more(path: &Path) -> Result<String, Fault> {
    let text = place::read_text(path)?;
    if text.len() > MORE_BYTES_MAX {
        return Err(Fault::file(path, "expected 2,048 bytes at most"));
    }
    Ok(text)
}

fn wifi(asked: &crate::cli::Esp) -> Result<Option<Wifi>, Fault> {
    let Some(name) = &asked.wifi else {
        return Ok(None);
    };
    if name.is_empty() || name.len() > WIFI_NAME_BYTES_MAX {
        return Err(Fault::asked("--wifi: expected a name of 1 to 32 bytes"));
    }
    let password = match &asked.wifi_password_file {
        None => String::new(),
        Some(path) => {
            let text = place::read_text(path)?;
            let password = text.lines().next().unwrap_or_default().to_owned();
            // What WPA takes.
            if !(8..=63).contains(&password.len()) {
                return Err(Fault::file(
                    path,
                    "expected a password of 8 to 63 bytes in its first line",
                ));
            }
            password
        }
    };
    Ok(Some(Wifi {
        name: name.clone(),
        password,
    }))
}

/// A configuration that serves with the first server certificate. One that is there is the operator's.
fn broker_configuration(place: &Place, certificate: &Path, key: &Path) -> Result<String, Fault> {
    let path = place.broker_configuration();
    if path.symlink_metadata().is_ok() {
        return Ok(String::new());
    }
    let root = place.absolute();
    let quoted = |path: &Path| {
        let inside = path.strip_prefix(place.root()).unwrap_or(path);
        // JSON's quotes are TOML's.
        serde_json::to_string(&root.join(inside)).map_err(|error| Fault::file(path, error))
    };
    let text = format!(
        "# A broker that devices reach with their certificates: nightjar -c {}\n\n\
         [[listeners]]\naddress = [\"0.0.0.0:8883\", \"[::]:8883\"]\n\n\
         [listeners.tls]\ncertificate_file = {}\nkey_file = {}\n\
         # Who has no certificate of this authority, or one that was revoked, is refused.\n\
         ca_file = {}\ncrl_file = {}\nrequire_certificate = true\n\
         # A certificate that was renewed is let in for its time of grace, with a warning.\nreplaced_file = {}\n\
         # The device's id is its user name. With bind_client_id it has to be its Client Identifier, too.\n\
         use_identity_as_username = true\n#bind_client_id = true\n",
        path.display(),
        quoted(certificate)?,
        quoted(key)?,
        quoted(&place.root_certificate())?,
        quoted(&place.revocation_list())?,
        quoted(&place.replaced_list())?,
    );
    place::write(&path, text.as_bytes(), Readers::Everybody, Over::Nothing)?;
    Ok(format!(
        "A configuration of the broker that serves with it on port 8883: {}\n",
        path.display()
    ))
}

pub(crate) const SERVER_DAYS: u32 = 825;
pub(crate) const DEVICE_DAYS: u32 = 5 * 365;

const COMMON_NAME_MAX: usize = authority::COMMON_NAME_BYTES_MAX;

/// Certificates between two writes of the index: each of them is in it before its files are written.
const AT_ONCE: usize = 1_000;

const WIFI_NAME_BYTES_MAX: usize = 32;
const MORE_BYTES_MAX: usize = 2048;

const BATCH_MAX: usize = 100_000;
const FAULTS_SHOWN: usize = 20;

//! What an ESP32 gets: certificates and key as DER, its settings as TOML and as a C header, all of it as one blob to flash, and a QR
//! code for whoever mounts it.
//!
//! The QR code says who the device is and whom it trusts. The key is in `key.der`, in the header and in the blob, and nowhere else.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use qrcode::QrCode;
use qrcode::render::{svg, unicode};
use rcgen::{Certificate, KeyPair};
use serde::Serialize;

use crate::authority::{Authority, Subject};
use crate::facts::Facts;
use crate::fault::Fault;
use crate::place::{self, Over, Place, Readers};
use crate::provisioning::{self, Entries};

/// Which broker the device is for, and how it gets there.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) wifi: Option<Wifi>,
    /// More lines of `config.toml`; the device refuses what it does not know.
    pub(crate) more: String,
}

/// A network; the password is empty for an open one.
#[derive(Clone)]
pub(crate) struct Wifi {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl fmt::Debug for Wifi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wifi")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Config<'a> {
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    broker_host: &'a str,
    broker_port: u16,
    ca_sha256: &'a str,
    certificate_sha256: &'a str,
}

pub(crate) fn directory(place: &Place, id: &str) -> PathBuf {
    place.directory("esp").join(id)
}

/// Writes all of it, and says what it is.
pub(crate) fn write(
    place: &Place,
    authority: &Authority,
    settings: &Settings,
    subject: &Subject,
    issued: &Certificate,
    key: &KeyPair,
    over: Over,
) -> Result<String, Fault> {
    let directory = directory(place, &subject.id);
    place::make_directory(&directory)?;
    let root_pem = place::read_text(&place.root_certificate())?;
    let root = Facts::from_bytes(root_pem.as_bytes())
        .map_err(|why| Fault::file(&place.root_certificate(), why))?;
    let own = Facts::from_der(issued.der()).map_err(Fault::refused)?;
    let config = Config {
        device_id: &subject.id,
        site: subject.site.as_deref(),
        tenant: subject.tenant.as_deref(),
        broker_host: &settings.host,
        broker_port: settings.port,
        ca_sha256: &root.certificate_sha256,
        certificate_sha256: &own.certificate_sha256,
    };
    let code = QrCode::new(format!(
        "nightjar:device?id={}&broker={}:{}&ca={}",
        subject.id, settings.host, settings.port, root.certificate_sha256
    ))
    .map_err(|error| Fault::refused(format!("the QR code: {error}")))?;
    let picture = code
        .render::<svg::Color<'_>>()
        .min_dimensions(240, 240)
        .build();
    let chain_pem = issued.pem() + authority.chain();
    let header = header(&config, &root_pem, &chain_pem, &key.serialize_pem())?;
    let toml = toml_of(&config)? + &settings.more;
    let mut entries: Entries = vec![
        (provisioning::CONFIG, toml.clone().into_bytes()),
        (provisioning::KEY, key.serialize_der()),
        (provisioning::CERTIFICATE, issued.der().to_vec()),
        (provisioning::ROOT, root.der.clone()),
    ];
    let everybody = Readers::Everybody;
    let mut files: Vec<(&str, Vec<u8>, Readers)> = vec![
        ("key.der", key.serialize_der(), Readers::Owner),
        ("certificate.der", issued.der().to_vec(), everybody),
        ("ca.der", root.der.clone(), everybody),
        ("config.toml", toml.into_bytes(), everybody),
        ("nightjar_device.h", header.into_bytes(), Readers::Owner),
        ("qr.svg", picture.into_bytes(), everybody),
    ];
    if !authority.chain().is_empty() {
        let between = Facts::from_bytes(authority.chain().as_bytes()).map_err(Fault::refused)?;
        entries.push((provisioning::ISSUING, between.der.clone()));
        files.push(("issuing.der", between.der, everybody));
    }
    if let Some(wifi) = &settings.wifi {
        entries.push((provisioning::WIFI_NAME, wifi.name.clone().into_bytes()));
        let password = wifi.password.clone().into_bytes();
        entries.push((provisioning::WIFI_PASSWORD, password));
    }
    let blob = provisioning::write(&entries)?;
    files.push((PROVISIONING, blob, Readers::Owner));
    for (name, bytes, readers) in &files {
        place::write(&directory.join(name), bytes, *readers, over)?;
    }
    let drawn = code
        .render::<unicode::Dense1x2>()
        // Terminals are dark.
        .dark_color(unicode::Dense1x2::Light)
        .light_color(unicode::Dense1x2::Dark)
        .build();
    Ok(format!(
        "For its ESP32, in {}: config.toml, certificate.der, ca.der, qr.svg; secret: key.der, nightjar_device.h, provisioning.bin\n{drawn}\n",
        directory.display()
    ))
}

/// Brings what a chip gets up to date, if there is some: what is of the certificate and its key, and nothing else.
pub(crate) fn renew(
    place: &Place,
    authority: &Authority,
    id: &str,
    issued: &Certificate,
    new_key: Option<&KeyPair>,
) -> Result<String, Fault> {
    let directory = directory(place, id);
    if !directory.is_dir() {
        return Ok(String::new());
    }
    let over = Over::Anything;
    if let Some(key) = new_key {
        let bytes = key.serialize_der();
        place::write(&directory.join("key.der"), &bytes, Readers::Owner, over)?;
    }
    let path = directory.join("certificate.der");
    place::write(&path, issued.der(), Readers::Everybody, over)?;
    let mut texts = vec![("NIGHTJAR_CERTIFICATE", issued.pem() + authority.chain())];
    texts.extend(new_key.map(|key| ("NIGHTJAR_KEY", key.serialize_pem())));
    renew_header(&directory.join("nightjar_device.h"), &texts)?;
    let config = directory.join("config.toml");
    renew_config(&config, issued)?;
    // Last: it has what is in the others.
    let config = fs::read(config).ok();
    renew_blob(&directory.join(PROVISIONING), issued, new_key, config)?;
    Ok(format!("What is in {} is new, too.\n", directory.display()))
}

/// Puts other texts in the place of some, and leaves everything else as somebody may have changed it.
fn renew_header(path: &Path, texts: &[(&str, String)]) -> Result<(), Fault> {
    let Ok(mut header) = fs::read_to_string(path) else {
        return Ok(());
    };
    for (name, text) in texts {
        let begin = format!("#define {name} \\\n");
        let Some(start) = header.find(&begin) else {
            continue;
        };
        let rest = header.get(start + begin.len()..).unwrap_or_default();
        // Each line of a text but its last ends with a backslash.
        let lines = rest.split_inclusive('\n');
        let old: usize = lines
            .scan(true, |goes_on, line| {
                let is_of_it = *goes_on;
                *goes_on = line.trim_end().ends_with('\\');
                is_of_it.then_some(line.len())
            })
            .sum();
        let end = start + begin.len() + old;
        header.replace_range(start..end, &format!("{begin}  {}\n", lines_of(text)?));
    }
    place::write(path, header.as_bytes(), Readers::Owner, Over::Anything)
}

fn renew_config(path: &Path, issued: &Certificate) -> Result<(), Fault> {
    let Ok(config) = fs::read_to_string(path) else {
        return Ok(());
    };
    let own = Facts::from_der(issued.der()).map_err(Fault::refused)?;
    let lines = config.lines().map(|line| match line.split_once('=') {
        Some((name, _)) if name.trim() == "certificate_sha256" => {
            format!("certificate_sha256 = \"{}\"\n", own.certificate_sha256)
        }
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    place::write(path, text.as_bytes(), Readers::Everybody, Over::Anything)
}

/// One that is not there is not missed: devices have been made without.
fn renew_blob(
    path: &Path,
    issued: &Certificate,
    new_key: Option<&KeyPair>,
    config: Option<Vec<u8>>,
) -> Result<(), Fault> {
    let Ok(old) = fs::read(path) else {
        return Ok(());
    };
    let damaged = || Fault::file(path, "this is no provisioning.bin");
    let mut entries = provisioning::read(&old).ok_or_else(damaged)?;
    for (kind, value) in &mut entries {
        match (*kind, new_key, &config) {
            (provisioning::CERTIFICATE, ..) => *value = issued.der().to_vec(),
            (provisioning::KEY, Some(key), _) => *value = key.serialize_der(),
            (provisioning::CONFIG, _, Some(config)) => value.clone_from(config),
            _ => {}
        }
    }
    let blob = provisioning::write(&entries)?;
    place::write(path, &blob, Readers::Owner, Over::Anything)
}

fn toml_of(config: &Config<'_>) -> Result<String, Fault> {
    // Strings and numbers of JSON are those of TOML, and there is nothing else in it.
    let value = serde_json::to_value(config).map_err(|error| Fault::refused(error.to_string()))?;
    let fields = value.as_object().into_iter().flatten();
    Ok(fields
        .map(|(name, value)| format!("{name} = {value}\n"))
        .collect())
}

/// Texts of JSON are texts of C, as long as they are plain.
fn header(config: &Config<'_>, root: &str, certificate: &str, key: &str) -> Result<String, Fault> {
    Ok(format!(
        "/* The device {id}, for its own firmware. It contains the device's private key: keep it secret. */\n\
         #pragma once\n\
         #define NIGHTJAR_DEVICE_ID {}\n\
         #define NIGHTJAR_SITE {}\n\
         #define NIGHTJAR_TENANT {}\n\
         #define NIGHTJAR_BROKER_HOST {}\n\
         #define NIGHTJAR_BROKER_PORT {}\n\
         #define NIGHTJAR_CA \\\n  {}\n\
         #define NIGHTJAR_CERTIFICATE \\\n  {}\n\
         #define NIGHTJAR_KEY \\\n  {}\n",
        quoted(config.device_id)?,
        quoted(config.site.unwrap_or_default())?,
        quoted(config.tenant.unwrap_or_default())?,
        quoted(config.broker_host)?,
        config.broker_port,
        lines_of(root)?,
        lines_of(certificate)?,
        lines_of(key)?,
        id = config.device_id,
    ))
}

fn quoted(text: &str) -> Result<String, Fault> {
    serde_json::to_string(text).map_err(|error| Fault::refused(error.to_string()))
}

/// A text of several lines, as C has it.
fn lines_of(pem: &str) -> Result<String, Fault> {
    let lines: Vec<String> = pem
        .lines()
        .map(|line| quoted(&format!("{line}\n")))
        .collect::<Result<_, _>>()?;
    Ok(lines.join(" \\\n  "))
}

const PROVISIONING: &str = "provisioning.bin";

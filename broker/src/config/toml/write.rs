//! Settings as a nightjar.toml that means the same.

use super::key::Key;
use super::keys::KEYS;
use super::listeners;
use crate::config::Sources;
use crate::settings::{ListenerSettings, Settings, TlsSettings};
use std::fmt::Write;

/// Every key whose value is not the default.
pub(in crate::config) fn changed(settings: &Settings) -> String {
    let default = Settings::default();
    let mut text = String::new();
    for key in KEYS {
        let value = (key.get)(settings);
        // Its default depends on the listeners.
        if value != (key.get)(&default) || key.name == "allow_anonymous" {
            line(&mut text, key, settings);
        }
    }
    text + &sections(settings)
}

/// Every key that has a value, each with its place or `default` behind it.
pub(in crate::config) fn all(settings: &Settings, sources: &Sources) -> String {
    let default = Settings::default();
    let mut text = String::new();
    for key in KEYS {
        let Some(value) = (key.get)(settings) else {
            continue;
        };
        let source = match sources.get(key.name) {
            Some(place) => place.to_string(),
            None if Some(&value) == (key.get)(&default).as_ref() => "default".into(),
            None => "not said; what Mosquitto does".into(),
        };
        let assignment = format!("{} = {}", key.name, value.to_toml());
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{assignment:<48} # {source}");
    }
    text + &sections(settings)
}

fn sections(settings: &Settings) -> String {
    let mut text = String::new();
    if settings.local_only {
        return text;
    }
    let default = ListenerSettings::default();
    for listener in &settings.listeners {
        text.push_str("\n[[listeners]]\n");
        changes(&mut text, listeners::KEYS, listener, &default);
        if let Some(tls) = &listener.tls {
            text.push_str("[listeners.tls]\n");
            changes(&mut text, listeners::TLS_KEYS, tls, &TlsSettings::default());
        }
        if let Some(security) = &listener.security {
            text.push_str("[listeners.security]\n");
            let default = listeners::of_a_listener();
            changes(&mut text, listeners::SECURITY_KEYS, security, &default);
        }
    }
    text
}

fn changes<T>(text: &mut String, keys: &[Key<T>], value: &T, default: &T) {
    for key in keys {
        if (key.get)(value) != (key.get)(default) {
            line(text, key, value);
        }
    }
}

fn line<T>(text: &mut String, key: &Key<T>, value: &T) {
    if let Some(written) = (key.get)(value) {
        let _ = writeln!(text, "{} = {}", key.name, written.to_toml());
    }
}

//! Lines of a log, without what differs from run to run and from version to version.

/// A line without its time.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a>(&'a str);

/// The lines of a log that have a time.
pub(crate) fn lines(log: &str) -> impl Iterator<Item = Line<'_>> {
    log.lines().filter_map(|line| {
        let (time, text) = line.split_once(": ")?;
        time.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(Line(text))
    })
}

impl Line<'_> {
    /// What it says, where it is one of the lines that tools look for; numbers of ports that a system chose are `N`.
    pub(crate) fn kind(self) -> Option<String> {
        // A tab there, spaces here.
        let text = self.0.trim_start();
        let (begin, rest) = text.split_once(' ').unwrap_or((text, ""));
        // The programs call themselves by their names.
        if begin == "mosquitto" || begin == "nightjar" {
            let what = rest.rsplit(' ').next()?;
            return Some(format!("NAME version N {what}"));
        }
        if OWN.iter().any(|words| text.starts_with(words)) {
            return None;
        }
        if let Some((_, reason)) = text.split_once("disconnected, not authorised") {
            // Mosquitto does not say who, nor why.
            assert!(reason == "." || reason.starts_with(" ("), "{text}");
            return Some("disconnected, not authorised".into());
        }
        let failures = [
            " disconnected: ",
            "Client connection from ",
            "the TLS handshake failed",
        ];
        if failures.iter().any(|words| text.contains(words)) {
            return Some("a handshake failed".into());
        }
        if let Some((client, reason)) = text.split_once(" due to protocol error") {
            assert!(reason == "." || reason.starts_with(": "), "{text}");
            return Some(format!("{client} due to protocol error"));
        }
        if let Some((_, file)) = text.split_once("Config loaded from ") {
            // Each has its own.
            let name = file.rsplit('/').next()?;
            return Some(format!("Config loaded from {name}"));
        }
        // The port that it listens on was chosen by the test.
        let text = text.split(" address=").next()?;
        let text = match text.rsplit_once(" on port ") {
            Some((what, _)) => what,
            None => text,
        };
        let words = text.split(' ').map(without_source_port);
        Some(words.collect::<Vec<_>>().join(" "))
    }
}

/// `127.0.0.1:50123` is `127.0.0.1:N`, `[::1]:50123` and `::1:50123` are `::1:N`; `(p2,` of 2.0 is `(p4,` of 2.1.
fn without_source_port(word: &str) -> String {
    match word.rsplit_once(':') {
        Some((address, port)) if port.parse::<u16>().is_ok() => {
            format!("{}:N", address.trim_matches(['[', ']']))
        }
        _ if word == "(p2," => "(p4,".into(),
        _ if word == "(p1," => "(p3,".into(),
        _ => word.into(),
    }
}

/// What each says of its insides, or says in words of its own.
const OWN: &[&str] = &[
    // Mosquitto.
    "Using default config.",
    "Starting in local only mode. ",
    "Create a configuration file",
    "For more details see ",
    "Loading config file ",
    "Saving in-memory database ",
    "OpenSSL Error",
    // Nightjar. Of a listener: when its certificates end.
    "Listener ",
    "To serve other machines, ",
    "Opening http listen socket ",
    "Warning: ",
    "Running as user ",
    "Listener ",
    "Sessions, queued and retained messages ",
    "Durability is ",
    "Config reloaded.",
    "Anonymous access ",
    "Open files: ",
    "Persistence is off: ",
    "Received CONNECT from ",
    "Denied PUBLISH from ",
    "Shutting down (SIGTERM).",
    // When its certificate ends.
    "Listener ",
];

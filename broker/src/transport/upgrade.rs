//! The HTTP request that becomes a WebSocket (RFC 6455 4.2).
//!
//! In: the bytes of the request. Out: the answer that accepts it, or the one that refuses it. Any path is served, nothing
//! is read from a file. Parsed by httparse.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tungstenite::handshake::derive_accept_key;

use crate::settings::IpNetwork;

/// A request that may become a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    /// Bytes of the request; what follows are frames.
    pub(crate) length: usize,
    pub(crate) answer: String,
    /// For whom the proxies say that they ask, where all of them are trusted.
    pub(crate) forwarded_for: Option<IpAddr>,
}

/// Why a request does not become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Malformed,
    Method,
    HeadTooLarge,
    NotWebSocket,
    Version,
    Origin,
    Subprotocol,
}

/// Reads the request at the start of `bytes`. `None`: it is not all there.
pub(crate) fn read(
    bytes: &[u8],
    origins: &[Box<str>],
    trusted: &[IpNetwork],
) -> Result<Option<Upgrade>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::Malformed),
    };
    let fields = Fields(request.headers);
    if request.method != Some("GET") {
        return Err(Refusal::Method);
    }
    // A body would be taken for frames.
    let has_body = fields.all("Transfer-Encoding").next().is_some()
        || fields
            .all("Content-Length")
            .any(|length| length != Some("0"));
    if request.version != Some(1) || has_body {
        return Err(Refusal::Malformed);
    }
    if !fields.list_has("Upgrade", "websocket") || !fields.list_has("Connection", "upgrade") {
        return Err(Refusal::NotWebSocket);
    }
    if fields.only("Sec-WebSocket-Version") != Some("13") {
        return Err(Refusal::Version);
    }
    let key = fields.only("Sec-WebSocket-Key").ok_or(Refusal::Malformed)?;
    if !BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(Refusal::Malformed);
    }
    if !origins.is_empty() {
        let origin = fields.only("Origin").ok_or(Refusal::Origin)?;
        if !origins.iter().any(|allowed| **allowed == *origin) {
            return Err(Refusal::Origin);
        }
    }
    let subprotocol = choose_subprotocol(&fields)?;
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key.as_bytes())
    );
    if let Some(subprotocol) = subprotocol {
        answer.push_str("Sec-WebSocket-Protocol: ");
        answer.push_str(subprotocol);
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    Ok(Some(Upgrade {
        length,
        answer,
        forwarded_for: forwarded_for(&fields, trusted),
    }))
}

/// The first one offered that we speak [MQTT-6.0.0-3]. Clients that offer none are served, as Mosquitto does, and hear of
/// none [MQTT-6.0.0-4].
fn choose_subprotocol(fields: &Fields<'_, '_>) -> Result<Option<&'static str>, Refusal> {
    let mut is_offered = false;
    for offered in fields.list("Sec-WebSocket-Protocol") {
        is_offered = true;
        if let Some(known) = SUBPROTOCOLS.iter().find(|known| **known == offered) {
            return Ok(Some(known));
        }
    }
    if is_offered {
        Err(Refusal::Subprotocol)
    } else {
        Ok(None)
    }
}

/// The last address that was not added by a proxy we trust: what stands before it anybody may have written.
fn forwarded_for(fields: &Fields<'_, '_>, trusted: &[IpNetwork]) -> Option<IpAddr> {
    let mut client = None;
    let mut named: Vec<&str> = fields.list("X-Forwarded-For").collect();
    while let Some(name) = named.pop() {
        let address: IpAddr = name.parse().ok()?;
        client = Some(address.to_canonical());
        if !trusted.iter().any(|network| network.contains(address)) {
            break;
        }
    }
    client
}

/// The header fields, by name.
struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'b> Fields<'_, 'b> {
    /// Every value of that name; `None` where it is not text.
    fn all(&self, name: &str) -> impl Iterator<Item = Option<&'b str>> {
        self.0
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| std::str::from_utf8(header.value).ok().map(str::trim))
    }

    /// The value of a field that is there once; a second one could be the one that somebody else looked at.
    fn only(&self, name: &str) -> Option<&'b str> {
        let mut values = self.all(name);
        let value = values.next()??;
        values.next().is_none().then_some(value)
    }

    /// The members of a list, which may be spread over several fields.
    fn list(&self, name: &str) -> impl Iterator<Item = &'b str> {
        self.all(name)
            .flatten()
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|member| !member.is_empty())
    }

    fn list_has(&self, name: &str, member: &str) -> bool {
        self.list(name)
            .any(|value| value.eq_ignore_ascii_case(member))
    }
}

impl Refusal {
    /// The whole answer.
    pub(crate) fn answer(self) -> String {
        let (status, more) = match self {
            Self::Malformed | Self::Subprotocol => ("400 Bad Request", ""),
            Self::Origin => ("403 Forbidden", ""),
            Self::Method => ("405 Method Not Allowed", "Allow: GET\r\n"),
            Self::HeadTooLarge => ("431 Request Header Fields Too Large", ""),
            Self::NotWebSocket | Self::Version => (
                "426 Upgrade Required",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            ),
        };
        format!("HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Length: 0\r\n\r\n")
    }

    /// For the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed HTTP request",
            Self::Method => "not a GET request",
            Self::HeadTooLarge => "HTTP request header too large",
            Self::NotWebSocket => "no WebSocket upgrade was asked for",
            Self::Version => "not version 13 of WebSocket",
            Self::Origin => "Origin is not in websocket_origins",
            Self::Subprotocol => "no subprotocol mqtt or mqttv3.1 was offered",
        }
    }
}

const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// Of the request, and of each of its lines.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    fn ask(more: &str, origins: &[&str]) -> Result<Option<Upgrade>, Refusal> {
        let origins: Vec<Box<str>> = origins.iter().map(|origin| (*origin).into()).collect();
        read(format!("{HEAD}{more}\r\n").as_bytes(), &origins, &[])
    }

    #[test]
    fn the_answer_is_that_of_the_standard_and_names_the_subprotocol() {
        let answer = |more: &str| ask(more, &[]).unwrap().unwrap().answer;
        // The example of RFC 6455 1.3.
        assert!(answer("").contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(!answer("").contains("Sec-WebSocket-Protocol"));
        let mqtt = answer("Sec-WebSocket-Protocol: mqtt\r\n");
        assert!(
            mqtt.ends_with("Sec-WebSocket-Protocol: mqtt\r\n\r\n"),
            "{mqtt}"
        );
        let old = answer("Sec-WebSocket-Protocol: chat, mqttv3.1, mqtt\r\n");
        assert!(
            old.ends_with("Sec-WebSocket-Protocol: mqttv3.1\r\n\r\n"),
            "{old}"
        );
        let spread = answer("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: mqtt\r\n");
        assert!(spread.ends_with("Sec-WebSocket-Protocol: mqtt\r\n\r\n"));
        let none = ask("Sec-WebSocket-Protocol: chat\r\n", &[]);
        assert_eq!(none, Err(Refusal::Subprotocol));
    }

    #[test]
    fn an_origin_that_cannot_be_verified_is_refused() {
        let allowed = ["https://good.example", "http://localhost:8080"];
        let long = format!(
            "Origin: https://good.example{}.example\r\n",
            "x".repeat(300)
        );
        let refused = [
            "",
            "Origin: https://evil.example\r\n",
            "Origin: https://good.example.evil.example\r\n",
            "Origin: HTTPS://GOOD.EXAMPLE\r\n",
            "Origin: https://good.example/\r\n",
            "Origin: https://good.example https://evil.example\r\n",
            "Origin: https://good.example\r\nOrigin: https://evil.example\r\n",
            "Origin: https://good.example\r\nOrigin: https://good.example\r\n",
            "Origin: null\r\n",
            "Origin:\r\n",
            &long,
        ];
        for more in refused {
            assert_eq!(ask(more, &allowed), Err(Refusal::Origin), "{more:?}");
        }
        for origin in allowed {
            assert!(ask(&format!("Origin: {origin}\r\n"), &allowed).is_ok());
        }
        assert!(ask("Origin: https://evil.example\r\n", &[]).is_ok());
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let read = |text: &str| read(text.as_bytes(), &[], &[]);
        let replaced = |from: &str, to: &str| read(&format!("{}\r\n", HEAD.replace(from, to)));
        let cases = [
            ("GET /mqtt", "POST /mqtt", Refusal::Method),
            ("HTTP/1.1", "HTTP/1.0", Refusal::Malformed),
            ("Upgrade: websocket", "Upgrade: h2c", Refusal::NotWebSocket),
            ("keep-alive, Upgrade", "keep-alive", Refusal::NotWebSocket),
            ("Version: 13", "Version: 8", Refusal::Version),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", Refusal::Malformed),
            ("Host: broker", "Content-Length: 5", Refusal::Malformed),
            (
                "Host: broker",
                "Transfer-Encoding: chunked",
                Refusal::Malformed,
            ),
            ("Host: broker", "Host broker", Refusal::Malformed),
        ];
        for (from, to, refusal) in cases {
            assert_eq!(replaced(from, to), Err(refusal), "{to}");
        }
        let plain = "GET /../../etc/passwd HTTP/1.1\r\nHost: broker\r\n\r\n";
        assert_eq!(read(plain), Err(Refusal::NotWebSocket));
        assert_eq!(read("\x10\x0c\0\x04MQTT"), Err(Refusal::Malformed));
        let many = "A: b\r\n".repeat(HEADERS_MAX);
        assert_eq!(
            read(&format!("{HEAD}{many}\r\n")),
            Err(Refusal::HeadTooLarge)
        );
        let long = format!("{HEAD}Cookie: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(read(&long), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_request_may_come_in_pieces_and_frames_behind_it() {
        let whole = format!("{HEAD}\r\n");
        for cut in 0..whole.len() {
            assert_eq!(read(&whole.as_bytes()[..cut], &[], &[]), Ok(None));
        }
        let upgrade = read(format!("{whole}\u{1}").as_bytes(), &[], &[]);
        assert_eq!(upgrade.unwrap().unwrap().length, whole.len());
    }

    #[test]
    fn forwarded_addresses_count_as_far_as_trusted_proxies_wrote_them() {
        let trusted = [IpNetwork {
            address: [10, 0, 0, 0].into(),
            prefix_bits: 8,
        }];
        let client = |value: &str| {
            let text = format!("{HEAD}X-Forwarded-For: {value}\r\n\r\n");
            let upgrade = read(text.as_bytes(), &[], &trusted).unwrap().unwrap();
            upgrade.forwarded_for.map(|address| address.to_string())
        };
        assert_eq!(client("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(
            client("6.6.6.6, 192.0.2.1, 10.0.0.9").as_deref(),
            Some("192.0.2.1")
        );
        assert_eq!(client("2001:db8::1").as_deref(), Some("2001:db8::1"));
        assert_eq!(client("nobody"), None);
    }
}

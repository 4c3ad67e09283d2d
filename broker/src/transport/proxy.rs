//! The PROXY header, versions 1 and 2: who the client behind a proxy is.
//!
//! In: the first bytes of a connection. Out: the client's address and what follows, or that more is needed, or that it is
//! no such header. Parsed by the crate ppp; what is stricter here says so.

use std::net::{IpAddr, SocketAddr};

use ppp::{PartialResult, v1, v2};

use crate::settings::ProxyProtocol;

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Its bytes.
    pub(crate) length: usize,
    /// The client; `None` where the proxy speaks for itself, or does not know.
    pub(crate) client: Option<SocketAddr>,
    /// The client's own connection used TLS.
    pub(crate) used_tls: bool,
    /// The client had a certificate there, which the proxy has verified.
    pub(crate) has_certificate: bool,
    /// Its common name.
    pub(crate) common_name: Option<Box<[u8]>>,
}

/// What a header of version 2 says of the client's TLS.
#[derive(Default)]
struct Ssl {
    used_tls: bool,
    has_certificate: bool,
    common_name: Option<Box<[u8]>>,
}

/// It is no header that may come here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// Reads the header at the start of `bytes`. `None`: it is not all there.
pub(crate) fn read(version: ProxyProtocol, bytes: &[u8]) -> Result<Option<Told>, Corrupt> {
    match version {
        ProxyProtocol::V1 => read_v1(bytes),
        ProxyProtocol::V2 => read_v2(bytes),
    }
}

fn read_v1(bytes: &[u8]) -> Result<Option<Told>, Corrupt> {
    let start = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = start.iter().position(|byte| *byte == b'\n') else {
        let begins_well = start
            .iter()
            .zip(V1_BEGIN)
            .all(|(byte, begin)| byte == begin);
        let may_go_on = begins_well && start.len() < V1_BYTES_MAX;
        return if may_go_on { Ok(None) } else { Err(Corrupt) };
    };
    // The parser is shown whole lines only: it takes a port that ends where the bytes end for a wrong one.
    let line = start.get(..=end).unwrap_or_default();
    let header = v1::Header::try_from(line).map_err(|_| Corrupt)?;
    if header.header.len() != line.len() {
        return Err(Corrupt);
    }
    let client = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(pair) => Some(known(
            pair.source_address.into(),
            pair.source_port,
            pair.destination_port,
        )?),
        v1::Addresses::Tcp6(pair) => Some(known(
            pair.source_address.into(),
            pair.source_port,
            pair.destination_port,
        )?),
    };
    Ok(Some(Told {
        length: header.header.len(),
        client,
        used_tls: false,
        has_certificate: false,
        common_name: None,
    }))
}

fn read_v2(bytes: &[u8]) -> Result<Option<Told>, Corrupt> {
    // Before its length is believed.
    if let Some(&[high, low]) = bytes.get(14..16)
        && usize::from(u16::from_be_bytes([high, low])) > V2_BYTES_MAX - 16
    {
        return Err(Corrupt);
    }
    let parsed = v2::Header::try_from(bytes);
    if parsed.is_incomplete() {
        return Ok(None);
    }
    let header = parsed.map_err(|_| Corrupt)?;
    let mut ssl = Ssl::default();
    for tlv in header.tlvs() {
        let tlv = tlv.map_err(|_| Corrupt)?;
        if tlv.kind == TLV_SSL {
            ssl = read_ssl(&tlv.value)?;
        }
    }
    if header.command == v2::Command::Local {
        // The proxy has no certificate of a client.
        (ssl.has_certificate, ssl.common_name) = (false, None);
    }
    let is_stream = header.protocol == v2::Protocol::Stream;
    let client = match (header.command, &header.addresses) {
        // The proxy itself, to see whether we live.
        (v2::Command::Local, _) => None,
        (v2::Command::Proxy, v2::Addresses::Unspecified) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(pair)) if is_stream => Some(known(
            pair.source_address.into(),
            pair.source_port,
            pair.destination_port,
        )?),
        (v2::Command::Proxy, v2::Addresses::IPv6(pair)) if is_stream => Some(known(
            pair.source_address.into(),
            pair.source_port,
            pair.destination_port,
        )?),
        (v2::Command::Proxy, v2::Addresses::Unix(_)) if is_stream => None,
        _ => return Err(Corrupt),
    };
    Ok(Some(Told {
        length: header.header.len(),
        client,
        used_tls: ssl.used_tls,
        has_certificate: ssl.has_certificate,
        common_name: ssl.common_name,
    }))
}

/// One byte of flags, the result of the verification, and what is told of the TLS itself.
fn read_ssl(value: &[u8]) -> Result<Ssl, Corrupt> {
    let [flags, verified @ ..] = value.get(..5).ok_or(Corrupt)? else {
        return Err(Corrupt);
    };
    let has_certificate =
        flags & (CERTIFICATE_CONNECTION | CERTIFICATE_SESSION) != 0 && verified == [0; 4];
    let mut ssl = Ssl {
        used_tls: flags & CLIENT_USED_TLS != 0,
        has_certificate,
        common_name: None,
    };
    let mut rest = value.get(5..).unwrap_or_default();
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (content, after) = after.split_at_checked(length).ok_or(Corrupt)?;
        if *kind == TLV_SSL_COMMON_NAME && has_certificate {
            if ssl.common_name.is_some() {
                return Err(Corrupt);
            }
            ssl.common_name = Some(content.into());
        }
        rest = after;
    }
    rest.is_empty().then_some(ssl).ok_or(Corrupt)
}

/// No connection has port 0 at either end.
fn known(address: IpAddr, port: u16, destination_port: u16) -> Result<SocketAddr, Corrupt> {
    if port == 0 || destination_port == 0 {
        return Err(Corrupt);
    }
    Ok(SocketAddr::new(address.to_canonical(), port))
}

const V1_BEGIN: &[u8] = b"PROXY ";
/// Of a version 1 header, its end included.
const V1_BYTES_MAX: usize = 107;
/// Of a version 2 header: addresses and what a proxy tells of a certificate fit in several times.
pub(crate) const V2_BYTES_MAX: usize = 4096;
const TLV_SSL: u8 = 0x20;
const CLIENT_USED_TLS: u8 = 0x01;
/// The client's certificate came in this connection, or in the one that began its session.
const CERTIFICATE_CONNECTION: u8 = 0x02;
const CERTIFICATE_SESSION: u8 = 0x04;
const TLV_SSL_COMMON_NAME: u8 = 0x22;

#[cfg(test)]
mod tests {
    use super::*;

    const V4_ADDRESSES: [u8; 12] = [192, 0, 2, 5, 127, 0, 0, 1, 0x18, 0x83, 0x04, 0xd2];

    fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((content.len() as u16).to_be_bytes());
        bytes.extend(content);
        bytes
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
        bytes
    }

    fn told(version: ProxyProtocol, header: &[u8]) -> Option<String> {
        let followed = [header, b"\x10\x0c"].concat();
        for cut in 0..header.len() {
            assert_eq!(read(version, &header[..cut]), Ok(None), "cut at {cut}");
        }
        let told = read(version, &followed).unwrap().unwrap();
        assert_eq!(told.length, header.len());
        told.client.map(|client| client.to_string())
    }

    #[test]
    fn the_client_is_who_the_header_says() {
        let v1 = |text: &str| told(ProxyProtocol::V1, text.as_bytes());
        let client = v1("PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n");
        assert_eq!(client.as_deref(), Some("192.0.2.5:6275"));
        let client = v1("PROXY TCP6 2001:db8::1 ::1 6275 1234\r\n");
        assert_eq!(client.as_deref(), Some("[2001:db8::1]:6275"));
        assert_eq!(v1("PROXY UNKNOWN\r\n"), None);
        assert_eq!(v1("PROXY UNKNOWN ffff::1 ::1 65535 65535\r\n"), None);

        let v2_ = |bytes: &[u8]| told(ProxyProtocol::V2, bytes);
        let client = v2_(&v2(1, 0x11, &V4_ADDRESSES));
        assert_eq!(client.as_deref(), Some("192.0.2.5:6275"));
        let mut v6 = vec![0; 36];
        v6[15] = 7;
        v6[33] = 1;
        v6[35] = 2;
        assert_eq!(v2_(&v2(1, 0x21, &v6)).as_deref(), Some("[::7]:1"));
        // The proxy speaks for itself, whatever addresses it adds.
        assert_eq!(v2_(&v2(0, 0x00, &[])), None);
        assert_eq!(v2_(&v2(0, 0x11, &V4_ADDRESSES)), None);
        // An address that is an IPv4 address in the form of an IPv6 one is the IPv4 address.
        let client = v1("PROXY TCP6 ::ffff:192.0.2.5 ::1 6275 1234\r\n");
        assert_eq!(client.as_deref(), Some("192.0.2.5:6275"));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let lines: [&[u8]; 16] = [
            b"\x10\x0c\x00\x04MQTT",
            b"PROXY TCP3 192.0.2.5 127.0.0.1 6275 1234\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275\r\n",
            b"PROXY TCP4 192.0.2.5\r\n",
            b"PROXY TCP4 \r\n",
            b"PROXY\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 0\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 0 1234\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 65536\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234 5\r\n",
            b"PROXY TCP4 192.0.2.256 127.0.0.1 6275 1234\r\n",
            b"PROXY TCP4 ::1 ::1 6275 1234\r\n",
            b"PROXY TCP6 192.0.2.5 127.0.0.1 6275 1234\r\n",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234                                                                            ",
            b"PROXY TCP4 192.0.2.5 127.0.0.1 6275 1234\n\x10\x0c\x00\x04MQTT",
            b"proxy TCP4 192.0.2.5 127.0.0.1 6275 1234\r\n",
        ];
        for line in lines {
            let text = String::from_utf8_lossy(line);
            assert_eq!(read(ProxyProtocol::V1, line), Err(Corrupt), "{text}");
        }
        let mut other_version = v2(1, 0x11, &V4_ADDRESSES);
        other_version[12] = 0x31;
        let mut long = v2(1, 0x11, &V4_ADDRESSES);
        long[14] = 0xff;
        let overrun = [&V4_ADDRESSES[..], &[0x20, 0x00, 0x09, 0x01]].concat();
        let cut_tlv = [&V4_ADDRESSES[..], &[0x20]].concat();
        let short_ssl = [&V4_ADDRESSES[..], &tlv(0x20, &[1, 0, 0])].concat();
        let headers = [
            b"PROXY UNKNOWN\r\n\x10\x0c\x00".to_vec(),
            other_version,
            long,
            v2(1, 0x11, &V4_ADDRESSES[..11]),
            v2(1, 0x21, &V4_ADDRESSES),
            v2(1, 0x12, &V4_ADDRESSES),
            v2(1, 0x41, &V4_ADDRESSES),
            v2(2, 0x11, &V4_ADDRESSES),
            v2(1, 0x11, &overrun),
            v2(1, 0x11, &cut_tlv),
            v2(1, 0x11, &short_ssl),
            v2(1, 0x11, &[192, 0, 2, 5, 127, 0, 0, 1, 0, 0, 4, 210]),
        ];
        for header in headers {
            assert_eq!(
                read(ProxyProtocol::V2, &header),
                Err(Corrupt),
                "{header:02x?}"
            );
        }
    }

    #[test]
    fn whether_the_client_used_tls_is_in_the_header() {
        let with = |flags: u8| {
            let ssl = tlv(0x20, &[flags, 0, 0, 0, 0]);
            let content = [&V4_ADDRESSES[..], &tlv(0x04, b"x"), &ssl].concat();
            read(ProxyProtocol::V2, &v2(1, 0x11, &content))
                .unwrap()
                .unwrap()
                .used_tls
        };
        assert!(with(0x01) && with(0x07));
        assert!(!with(0x00) && !with(0x02));
        let plain = read(ProxyProtocol::V2, &v2(1, 0x11, &V4_ADDRESSES)).unwrap();
        assert!(!plain.unwrap().used_tls);
    }

    #[test]
    fn a_common_name_is_that_of_a_certificate_which_was_verified() {
        let told = |command: u8, flags: u8, verified: u8, inside: &[u8]| {
            let ssl = [&[flags, 0, 0, 0, verified], inside].concat();
            let content = [&V4_ADDRESSES[..], &tlv(0x20, &ssl)].concat();
            read(ProxyProtocol::V2, &v2(command, 0x11, &content))
                .map(|told| told.map(|told| (told.has_certificate, told.common_name)))
        };
        let name = [tlv(0x21, b"TLSv1.3"), tlv(0x22, b"gauge-7")].concat();
        let known = Ok(Some((true, Some(b"gauge-7".as_slice().into()))));
        assert_eq!(told(1, 0x03, 0, &name), known);
        assert_eq!(told(1, 0x05, 0, &name), known);
        let nobody = Ok(Some((false, None)));
        assert_eq!(told(1, 0x01, 0, &name), nobody, "without a certificate");
        assert_eq!(told(1, 0x03, 1, &name), nobody, "not verified");
        assert_eq!(told(0, 0x03, 0, &name), nobody, "the proxy itself");
        assert_eq!(told(1, 0x03, 0, &[]), Ok(Some((true, None))));
        for cut in 1..name.len() {
            if cut != 10 {
                assert_eq!(told(1, 0x03, 0, &name[..cut]), Err(Corrupt), "{cut}");
            }
        }
        assert_eq!(told(1, 0x03, 0, &[&name[..], &name].concat()), Err(Corrupt));
    }
}

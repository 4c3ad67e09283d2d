//! Integers, strings and binary data: how they are read from a packet and written to one.
//!
//! A `Reader` gives slices of the packet and never copies. A `Sink` is written to; there are two, the output buffer and a
//! counter, so that the length of a packet and its bytes come from the same code.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::error::{EncodeError, Misdeed};
use crate::frame::{PacketType, REMAINING_LENGTH_MAX, read_variable_byte_integer};
use crate::version::{PacketId, ProtocolVersion};

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    #[inline]
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn end(&self) -> Result<(), Misdeed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Misdeed::TrailingBytes)
        }
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Misdeed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(Misdeed::UnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Misdeed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Misdeed::UnexpectedEnd)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Misdeed> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Misdeed> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Misdeed> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Misdeed> {
        // [MQTT-2.2.1-3]
        PacketId::new(self.u16()?).ok_or(Misdeed::PacketIdZero)
    }

    #[inline]
    pub(crate) fn variable_byte_integer(&mut self) -> Result<u32, Misdeed> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(u32::from(byte));
        }
        let (value, length) =
            read_variable_byte_integer(self.rest)?.ok_or(Misdeed::UnexpectedEnd)?;
        self.take(length)?;
        Ok(value)
    }

    /// Two bytes of length, and as many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Misdeed> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, Misdeed> {
        checked_string(self.binary()?)
    }

    /// The properties, behind their length.
    #[inline]
    pub(crate) fn properties(&mut self) -> Result<Self, Misdeed> {
        let length = self.variable_byte_integer()?;
        self.take(length as usize).map(Self::new)
    }
}

/// A string as MQTT allows it.
#[inline]
pub(crate) fn checked_string(bytes: &[u8]) -> Result<&str, Misdeed> {
    // [MQTT-1.5.4-1] Rust's UTF-8 has no surrogates and no over-long forms.
    let string = core::str::from_utf8(bytes).map_err(|_| Misdeed::NotUtf8)?;
    if has_only_allowed_characters(string) {
        Ok(string)
    } else {
        Err(Misdeed::ForbiddenCharacter)
    }
}

/// No U+0000 [MQTT-1.5.4-2], and none of the characters that 1.5.4 says should not be there: control characters and
/// non-characters. They are refused in every string alike, as the byte vectors want for topics, User Names and
/// Client Identifiers. U+FEFF is a character like any other [MQTT-1.5.4-3].
#[inline]
pub(crate) fn has_only_allowed_characters(string: &str) -> bool {
    // One pass without branches, which the compiler can make wide; nearly every string is printable ASCII.
    let other = string
        .as_bytes()
        .iter()
        .fold(false, |other, &byte| other | !(0x20..0x7f).contains(&byte));
    !other || string.chars().all(is_allowed)
}

fn is_allowed(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{fdd0}'..='\u{fdef}')
        && (u32::from(character) & 0xfffe) != 0xfffe
}

/// Makes `Bytes` of a slice of the packet: a copy, or a share of the packet's own memory.
#[derive(Clone, Copy)]
pub(crate) enum Blobs<'a> {
    Copied,
    Shared(&'a Bytes),
}

impl Blobs<'_> {
    pub(crate) fn blob(self, slice: &[u8]) -> Bytes {
        match self {
            Self::Copied => Bytes::copy_from_slice(slice),
            Self::Shared(packet) => packet.slice_ref(slice),
        }
    }
}

/// Somewhere to write a packet to.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    /// Notes that the packet cannot be encoded.
    fn fail(&mut self, error: EncodeError);

    #[inline]
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    #[inline]
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    #[inline]
    fn put_binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.put_u16(length);
                self.put(bytes);
            }
            Err(_) => self.fail(EncodeError::FieldTooLong),
        }
    }

    #[inline]
    fn put_string(&mut self, string: &str) {
        self.put_binary(string.as_bytes());
    }

    /// Four bytes at most: what is above 268,435,455 must have been refused before.
    #[inline]
    fn put_variable_byte_integer(&mut self, value: u32) {
        let mut value = value;
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return self.put_u8(low);
            }
            self.put_u8(low | 0x80);
        }
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn fail(&mut self, error: EncodeError) {
        // The counting pass has met the same error before, and nothing was written.
        debug_assert!(
            false,
            "the counter accepted what the writer refuses: {error}"
        );
    }
}

/// Counts, and remembers the first failure.
#[derive(Default)]
pub(crate) struct Counter {
    pub(crate) length: usize,
    pub(crate) error: Option<EncodeError>,
}

impl Sink for Counter {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
    }

    fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }
}

/// Bytes that a Variable Byte Integer needs.
#[inline]
pub(crate) const fn variable_byte_integer_length(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// A packet that can be written, all but its fixed header.
pub(crate) trait Body {
    /// Writes what follows the fixed header.
    fn write(&self, version: ProtocolVersion, sink: &mut impl Sink);
}

pub(crate) fn encoded_length(body: &impl Body, version: ProtocolVersion) -> usize {
    let mut counter = Counter::default();
    body.write(version, &mut counter);
    1 + variable_byte_integer_length(counter.length) + counter.length
}

/// Appends a packet and gives its length; appends nothing on error.
pub(crate) fn encode(
    first_byte: u8,
    body: &impl Body,
    version: ProtocolVersion,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let mut counter = Counter::default();
    body.write(version, &mut counter);
    if let Some(error) = counter.error {
        return Err(error);
    }
    let remaining_length = u32::try_from(counter.length)
        .ok()
        .filter(|&length| length <= REMAINING_LENGTH_MAX)
        .ok_or(EncodeError::PacketTooLarge)?;
    let start = out.len();
    out.reserve(5 + counter.length);
    out.put_u8(first_byte);
    out.put_variable_byte_integer(remaining_length);
    body.write(version, out);
    let written = out.len() - start;
    debug_assert_eq!(
        written,
        1 + variable_byte_integer_length(counter.length) + counter.length
    );
    Ok(written)
}

/// Writes a section of properties behind its length.
pub(crate) fn put_properties<S: Sink>(sink: &mut S, write: &impl Properties) {
    let mut counter = Counter::default();
    write.write(&mut counter);
    match u32::try_from(counter.length) {
        Ok(length) if length <= REMAINING_LENGTH_MAX => sink.put_variable_byte_integer(length),
        _ => sink.fail(EncodeError::PacketTooLarge),
    }
    write.write(sink);
}

/// A set of properties that can be written.
pub(crate) trait Properties {
    fn write(&self, sink: &mut impl Sink);

    /// Whether nothing would be written.
    fn is_empty(&self) -> bool {
        let mut counter = Counter::default();
        self.write(&mut counter);
        counter.length == 0 && counter.error.is_none()
    }
}

/// Refuses flags that are not those of the packet type.
pub(crate) fn check_flags(
    packet_type: PacketType,
    flags: u8,
    version: ProtocolVersion,
) -> Result<(), Misdeed> {
    let expected = packet_type.reserved_flags();
    // 3.1 has DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE, for those that are sent again.
    let ignored = if version == ProtocolVersion::V3_1 && expected != 0 {
        0b1000
    } else {
        0
    };
    if flags & !ignored == expected {
        Ok(())
    } else {
        Err(Misdeed::InvalidFlags)
    }
}

//! Bytes written by hand: the payload language of the byte-exact exchanges, and its inverse for messages.
//!
//! Words separated by spaces: hex bytes (`82`, `0000`); `iN` one byte decimal; `HN` `kN` `mN` `sN` two bytes big-endian (number, keep
//! alive, packet id, string length); `LN` four bytes; `vN` `rN` a variable byte integer, over-long values as they stand; `'text'` UTF-8,
//! which may hold spaces. Ours alone: `s'text'` is the length and the text.

/// The bytes that `words` stand for; panics on a word it does not know, because it comes from a test.
#[track_caller]
pub fn bytes(words: &str) -> Vec<u8> {
    match parse_bytes(words) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{error}"),
    }
}

/// The bytes that `words` stand for.
pub fn parse_bytes(words: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = words.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("s'").or_else(|| rest.strip_prefix('\'')) {
            let (text, after) = quoted
                .split_once('\'')
                .ok_or_else(|| format!("no closing quote in: {words}"))?;
            if rest.starts_with('s') {
                out.extend(text_with_length(text.as_bytes()));
            } else {
                out.extend_from_slice(text.as_bytes());
            }
            rest = after.trim_start();
            continue;
        }
        let end = rest.find([' ', '\'']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        push_word(word, &mut out).ok_or_else(|| format!("unknown word {word:?} in: {words}"))?;
        rest = after.trim_start();
    }
    Ok(out)
}

/// A packet from its first byte and its body, with the Remaining Length worked out: `packet("82", "m1 s'p' 00")`.
#[track_caller]
pub fn packet(first_byte: &str, body: &str) -> Vec<u8> {
    let body = bytes(body);
    let mut out = bytes(first_byte);
    out.extend(variable_byte_integer(body.len() as u64));
    out.extend(body);
    out
}

/// A property section: its length as a variable byte integer, then the properties.
#[track_caller]
pub fn properties(words: &str) -> Vec<u8> {
    let section = bytes(words);
    let mut out = variable_byte_integer(section.len() as u64);
    out.extend(section);
    out
}

/// Two bytes of length, then the bytes: a UTF-8 Encoded String or Binary Data, well formed or not.
pub fn text_with_length(text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("at most 65,535 bytes fit a length of two bytes");
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(text);
    out
}

/// A variable byte integer, without the standard's upper bound: tests send what must not be sent.
pub fn variable_byte_integer(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return out;
        }
    }
}

/// Bytes as hex pairs separated by spaces, cut after 512 bytes.
pub fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 512;
    let mut words: Vec<String> = bytes
        .iter()
        .take(SHOWN)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if bytes.len() > SHOWN {
        words.push(format!("... ({} bytes)", bytes.len()));
    }
    words.join(" ")
}

fn push_word(word: &str, out: &mut Vec<u8>) -> Option<()> {
    let (kind, number) = word.split_at_checked(1)?;
    match kind {
        "i" => out.push(number.parse().ok()?),
        "H" | "k" | "m" | "s" => out.extend(number.parse::<u16>().ok()?.to_be_bytes()),
        "L" => out.extend(number.parse::<u32>().ok()?.to_be_bytes()),
        "v" | "r" => out.extend(variable_byte_integer(number.parse().ok()?)),
        _ if word.len().is_multiple_of(2) => {
            for pair in word.as_bytes().chunks(2) {
                out.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_word_becomes_its_bytes() {
        check("82 0000 FfaB", &[0x82, 0, 0, 0xff, 0xab]);
        check("i200 H258 k60 m1234 s3", &[200, 1, 2, 0, 60, 4, 0xd2, 0, 3]);
        check("L16909060", &[1, 2, 3, 4]);
        check(
            "r127 r128 v268435456",
            &[127, 0x80, 1, 0x80, 0x80, 0x80, 0x80, 1],
        );
        check("s3 'a b' 'é'", &[0, 3, b'a', b' ', b'b', 0xc3, 0xa9]);
        check("s'ab' s''", &[0, 2, b'a', b'b', 0, 0]);
        check("", &[]);
    }

    #[test]
    fn an_unknown_word_is_refused() {
        for words in ["8", "zz", "'a", "i256", "m65536", "x12"] {
            assert!(parse_bytes(words).is_err(), "{words}");
        }
    }

    #[test]
    fn packet_works_out_the_remaining_length() {
        assert_eq!(packet("82", "m1 s'p' 00"), bytes("82 r6 m1 s1 'p' 00"));
        assert_eq!(properties("11 L60"), bytes("v5 11 L60"));
    }

    fn check(words: &str, expected: &[u8]) {
        assert_eq!(bytes(words), expected, "{words}");
    }
}

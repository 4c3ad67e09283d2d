//! TOML as far as a `config.toml` of a device goes: plain keys with texts, whole numbers and switches. The lexer and parser are those
//! below the crate `toml`, which itself needs atomic reference counts, and the ESP32-C3 has none.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};

use serde_json::{Map, Value};
use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, ParseError, Raw, Source, Span};

/// The keys and values of `text`.
///
/// # Errors
/// What is no TOML, or more of it than is known here.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let tokens = Source::new(text).lex().into_vec();
    let mut reader = Reader {
        text,
        key: None,
        values: Map::new(),
    };
    let mut first: Option<ParseError> = None;
    parse_document(&tokens, &mut reader, &mut first);
    match first {
        Some(error) => {
            let at = error
                .unexpected()
                .or_else(|| error.context())
                .map_or(0, |span| span.start());
            let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
            Err(alloc::format!("line {line}: {}", error.description()))
        }
        None => Ok(reader.values),
    }
}

struct Reader<'a> {
    text: &'a str,
    key: Option<String>,
    values: Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'a> {
        let text = self.text.get(span.start()..span.end()).unwrap_or_default();
        Raw::new_unchecked(text, encoding, span)
    }
}

impl EventReceiver for Reader<'_> {
    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut key = Cow::Borrowed("");
        self.raw(span, encoding).decode_key(&mut key, error);
        self.key = Some(key.into_owned());
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let Some(key) = self.key.take() else {
            return;
        };
        let mut text = Cow::Borrowed("");
        let kind = self.raw(span, encoding).decode_scalar(&mut text, error);
        let value = match kind {
            ScalarKind::String => Some(Value::String(text.into_owned())),
            ScalarKind::Boolean(value) => Some(Value::Bool(value)),
            ScalarKind::Integer(radix) => i64::from_str_radix(&text, radix.value())
                .ok()
                .map(Value::from),
            ScalarKind::Float | ScalarKind::DateTime => None,
        };
        match value {
            None => refuse(
                "neither a text, nor a whole number, nor a switch",
                span,
                error,
            ),
            Some(_) if self.values.contains_key(&key) => refuse("key twice", span, error),
            Some(value) => {
                self.values.insert(key, value);
            }
        }
    }

    fn key_sep(&mut self, span: Span, error: &mut dyn ErrorSink) {
        refuse("no dotted keys here", span, error);
    }

    fn std_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) {
        refuse("no tables here", span, error);
    }

    fn array_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) {
        refuse("no tables here", span, error);
    }

    fn inline_table_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        refuse("no tables here", span, error);
        false
    }

    fn array_open(&mut self, span: Span, error: &mut dyn ErrorSink) -> bool {
        refuse("no lists here", span, error);
        false
    }
}

fn refuse(why: &'static str, span: Span, error: &mut dyn ErrorSink) {
    error.report_error(ParseError::new(why.to_string()).with_unexpected(span));
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_keys_are_read_with_comments_between() {
        let read = parse("# of a device\na = \"x\\ty\" # tab\nb = 0x10\n\n'c' = true\nd = '\\'\n");
        let read = Value::Object(read.unwrap());
        let expected = serde_json::json!({ "a": "x\ty", "b": 16, "c": true, "d": "\\" });
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_more_or_less_than_that_is_refused_with_its_line() {
        for line in [
            "a",
            "a =",
            "a = x",
            "a = \"x",
            "a = 1.5",
            "a = 2026-11-21",
            "a = 99999999999999999999",
            "a = [1]",
            "a = { b = 1 }",
            "a.b = 1",
            "[a]",
            "[[a]]",
            "first = 2",
            "a = 1 2",
        ] {
            let why = parse(&format!("first = 1\n{line}\n")).unwrap_err();
            assert!(why.starts_with("line 2: "), "{line}: {why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z=\\[\\]{}\"'.#\\\\0-9 \n]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn it_agrees_with_the_crate_toml(text in "([ab] = (\"[a-z]{0,3}\"|[0-9]{1,3}|true|'x')( #c)?\n){0,3}") {
            let theirs: Option<Value> = toml::from_str(&text).ok();
            assert_eq!(parse(&text).ok().map(Value::Object), theirs, "{text:?}");
        }
    }
}

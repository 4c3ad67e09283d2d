//! CONNECT packets put together by hand, for every protocol version.

use crate::bytes::{bytes, text_with_length, variable_byte_integer};

/// A CONNECT packet in the making: clean, keep alive 60, no will, no credentials, until told otherwise.
#[derive(Clone, Debug)]
pub struct Connect {
    level: u8,
    client_id: Vec<u8>,
    clean: bool,
    keep_alive: u16,
    properties: Vec<u8>,
    will: Option<Will>,
    username: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Will {
    topic: Vec<u8>,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<u8>,
}

impl Connect {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    pub fn v3(client_id: impl AsRef<[u8]>) -> Self {
        Self::of_level(3, client_id.as_ref())
    }

    /// MQTT 3.1.1 (level 4).
    pub fn v4(client_id: impl AsRef<[u8]>) -> Self {
        Self::of_level(4, client_id.as_ref())
    }

    /// MQTT 5.0 (level 5).
    pub fn v5(client_id: impl AsRef<[u8]>) -> Self {
        Self::of_level(5, client_id.as_ref())
    }

    /// Clean Session (3.1, 3.1.1) or Clean Start (5.0).
    pub fn clean(mut self, clean: bool) -> Self {
        self.clean = clean;
        self
    }

    /// Keep Alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// CONNECT properties as words, without their length (5.0 only).
    #[track_caller]
    pub fn properties(mut self, words: &str) -> Self {
        self.properties = bytes(words);
        self
    }

    /// A will message.
    pub fn will(
        mut self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
        qos: u8,
        retain: bool,
    ) -> Self {
        let (topic, payload) = (topic.as_ref().to_vec(), payload.as_ref().to_vec());
        self.will = Some(Will {
            topic,
            payload,
            qos,
            retain,
            properties: Vec::new(),
        });
        self
    }

    /// The will's properties as words, without their length (5.0 only); call after `will`.
    #[track_caller]
    pub fn will_properties(mut self, words: &str) -> Self {
        self.will
            .as_mut()
            .expect("will_properties() needs will()")
            .properties = bytes(words);
        self
    }

    /// User Name.
    pub fn username(mut self, username: impl AsRef<[u8]>) -> Self {
        self.username = Some(username.as_ref().to_vec());
        self
    }

    /// Password.
    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// The whole packet.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        let mut out = vec![0x10];
        out.extend(variable_byte_integer(body.len() as u64));
        out.extend(body);
        out
    }

    /// Whether this is a 5.0 CONNECT.
    pub fn is_v5(&self) -> bool {
        self.level == 5
    }

    fn of_level(level: u8, client_id: &[u8]) -> Self {
        Self {
            level,
            client_id: client_id.to_vec(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | (will.qos << 3) | (u8::from(will.retain) << 5);
        }
        flags |= u8::from(self.password.is_some()) << 6;
        flags |= u8::from(self.username.is_some()) << 7;

        let mut body = text_with_length(if self.level == 3 { b"MQIsdp" } else { b"MQTT" });
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        self.push_properties(&self.properties, &mut body);
        body.extend(text_with_length(&self.client_id));
        if let Some(will) = &self.will {
            self.push_properties(&will.properties, &mut body);
            body.extend(text_with_length(&will.topic));
            body.extend(text_with_length(&will.payload));
        }
        for credential in [&self.username, &self.password].into_iter().flatten() {
            body.extend(text_with_length(credential));
        }
        body
    }

    fn push_properties(&self, section: &[u8], body: &mut Vec<u8>) {
        if self.is_v5() {
            body.extend(variable_byte_integer(section.len() as u64));
            body.extend_from_slice(section);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_packets_are_those_of_the_standard() {
        assert_eq!(
            Connect::v4("a").bytes(),
            bytes("10 0d 0004 4d515454 04 02 003c 0001 61")
        );
        assert_eq!(
            Connect::v5("a").bytes(),
            bytes("10 0e 0004 4d515454 05 02 003c 00 0001 61")
        );
        assert_eq!(
            Connect::v3("a").bytes(),
            bytes("10 0f s6 'MQIsdp' 03 02 003c 0001 61")
        );
    }

    #[test]
    fn everything_stands_in_the_order_of_the_standard() {
        let connect = Connect::v5("a")
            .clean(false)
            .keep_alive(10)
            .properties("11 L60")
            .will("w", "x", 1, true);
        let connect = connect.will_properties("18 L5").username("u").password("p");
        let expected = "10 r37 s'MQTT' 05 ec k10 v5 11 L60 s'a' v5 18 L5 s'w' s'x' s'u' s'p'";
        assert_eq!(connect.bytes(), bytes(expected));
    }
}

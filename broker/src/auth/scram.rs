//! SCRAM-SHA-512 (RFC 5802 with SHA-512) from the lines of a password file: the hash of a `$7$` line is SCRAM's SaltedPassword.
//!
//! In: the client's messages, and who is known. Out: the server's messages, and in the end who the client is. The password
//! never comes over the wire, and the client sees that the server knows it, too.
//!
//! ```text
//! CONNECT   n,,n=alice,r=CLIENT-NONCE
//! AUTH      r=CLIENT-NONCE SERVER-NONCE,s=SALT,i=ITERATIONS
//! AUTH      c=biws,r=CLIENT-NONCE SERVER-NONCE,p=PROOF
//! CONNACK   v=SERVER-SIGNATURE
//! ```
//!
//! A user who is not there, or whose hash is of another form, is asked with a salt that is the same each time, and fails at
//! the proof. Channel binding is not offered; a client that insists on it is refused, one that merely could is not.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use nightjar_codec::ReasonCode;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

use super::hash::{Cost, Hash};
use super::{PasswordFile, Users, hmac};
use crate::session::authenticate::{Ground, Method, MethodExchange, Step, Success};

/// The method.
pub struct ScramSha512;

/// States: the first message is awaited, then the proof, then nothing more.
enum State {
    First,
    Final(Box<Asked>),
    Over,
}

struct Exchange {
    file: Arc<PasswordFile>,
    nonce: String,
    user: Option<Box<str>>,
    state: State,
}

/// What the client was asked.
struct Asked {
    user: Box<str>,
    /// `n,,` or `y,,`, with an authorization identity where there was one: what `c=` must repeat.
    header: Box<str>,
    /// Client's and server's part.
    nonce: Box<str>,
    /// client-first-message-bare "," server-first-message
    said: String,
    credential: Option<Arc<Hash>>,
}

impl Method for ScramSha512 {
    fn name(&self) -> &str {
        "SCRAM-SHA-512"
    }

    fn begin(&self, with: &Ground) -> Option<Box<dyn MethodExchange>> {
        let Users::File(file) = &with.users else {
            return None;
        };
        Some(Box::new(Exchange {
            file: Arc::clone(file),
            nonce: URL_SAFE_NO_PAD.encode(with.nonce),
            user: None,
            state: State::First,
        }))
    }
}

impl MethodExchange for Exchange {
    fn step(&mut self, data: &[u8]) -> Step {
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::First => self.ask(data),
            State::Final(asked) => conclude(&asked, data),
            State::Over => None,
        };
        step.unwrap_or(Step::Failure(ReasonCode::NotAuthorized))
    }

    fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

impl Exchange {
    /// The server-first-message; `None` for what is no client-first-message, or one that cannot be served.
    fn ask(&mut self, data: &[u8]) -> Option<Step> {
        let first = ClientFirst::parse(std::str::from_utf8(data).ok()?)?;
        self.user = Some(first.user.clone());
        let known = self.file.user(&first.user);
        let known = known.filter(|hash| matches!(hash.cost(), Cost::Pbkdf2 { .. }));
        // Reckoned in any case, so that it takes no longer for whoever is not there.
        let of_nobody = self.file.salt_of_nobody(&first.user);
        let (salt, iterations) = match known.map(|hash| (hash.salt(), hash.cost())) {
            Some((salt, Cost::Pbkdf2 { iterations })) => (salt.into(), iterations),
            _ => of_nobody,
        };
        let nonce: Box<str> = format!("{}{}", first.nonce, self.nonce).into();
        let message = format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt));
        let asked = Asked {
            header: first.header.into(),
            nonce,
            said: format!("{},{message}", first.bare),
            credential: known.cloned(),
            user: first.user,
        };
        self.state = State::Final(Box::new(asked));
        Some(Step::Continue(Bytes::from(message)))
    }
}

/// The server-final-message, or `None`.
fn conclude(asked: &Asked, data: &[u8]) -> Option<Step> {
    let message = std::str::from_utf8(data).ok()?;
    let (without_proof, proof) = message.rsplit_once(",p=")?;
    let mut attributes = without_proof.split(',');
    let binding = attributes.next()?.strip_prefix("c=")?;
    let nonce = attributes.next()?.strip_prefix("r=")?;
    // What is not known may stand there, if it has the form of an attribute.
    if !attributes.all(is_extension) {
        return None;
    }
    let binding = STANDARD.decode(binding).ok()?;
    let proof: [u8; 64] = STANDARD.decode(proof).ok()?.try_into().ok()?;
    if binding != asked.header.as_bytes() || nonce != &*asked.nonce {
        return None;
    }
    let mut said = String::with_capacity(asked.said.len() + 1 + without_proof.len());
    let _ = write!(said, "{},{without_proof}", asked.said);
    // Of a user who is not there the same is reckoned, with a key that is nobody's.
    let nobody = [0; 64];
    let salted = asked
        .credential
        .as_ref()
        .map_or(&nobody[..], |hash| hash.key());
    let client_key = hmac(salted, &[b"Client Key"]);
    let stored_key: [u8; 64] = Sha512::digest(client_key).into();
    let mut claimed_key = hmac(&stored_key, &[said.as_bytes()]);
    claimed_key
        .iter_mut()
        .zip(proof)
        .for_each(|(byte, proof)| *byte ^= proof);
    let claimed: [u8; 64] = Sha512::digest(claimed_key).into();
    let is_right = bool::from(claimed.ct_eq(&stored_key));
    let credential = asked.credential.as_ref().filter(|_| is_right)?;
    let server_key = hmac(credential.key(), &[b"Server Key"]);
    let signature = hmac(&server_key, &[said.as_bytes()]);
    Some(Step::Success(Box::new(Success {
        data: Some(Bytes::from(format!("v={}", STANDARD.encode(signature)))),
        user: Some(asked.user.clone()),
        credential: Some(Arc::clone(credential)),
    })))
}

struct ClientFirst<'a> {
    /// gs2-header, the last comma included.
    header: &'a str,
    bare: &'a str,
    user: Box<str>,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Option<Self> {
        let (flag, rest) = message.split_once(',')?;
        // "p=...": the client insists on channel binding. "y": it would, and thinks that the server cannot, which is so.
        if !matches!(flag, "n" | "y") {
            return None;
        }
        let (authorization, bare) = rest.split_once(',')?;
        let header = message.get(..message.len() - bare.len())?;
        let mut attributes = bare.split(',');
        // "m=", a mandatory extension, would stand first, and none is known here.
        let user = name(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_printable = |byte: u8| (0x21..=0x7e).contains(&byte);
        if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX || !nonce.bytes().all(is_printable) {
            return None;
        }
        if !attributes.all(is_extension) {
            return None;
        }
        // Nobody acts for somebody else.
        if !authorization.is_empty() && name(authorization.strip_prefix("a=")?)? != user {
            return None;
        }
        Some(Self {
            header,
            bare,
            user,
            nonce,
        })
    }
}

/// `=2C` is a comma and `=3D` an equals sign; any other `=` is an error (RFC 5802, 5.1).
fn name(text: &str) -> Option<Box<str>> {
    let mut parts = text.split('=');
    let mut name = String::from(parts.next()?);
    for part in parts {
        let (escaped, rest) = part.split_at_checked(2)?;
        name.push(match escaped {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        name.push_str(rest);
    }
    (!name.is_empty() && !name.contains('\0')).then(|| name.into())
}

fn is_extension(attribute: &str) -> bool {
    let mut letters = attribute.chars();
    let named = letters
        .next()
        .is_some_and(|name| name.is_ascii_alphabetic());
    // "m=" is the one that may not be passed over.
    named && letters.next() == Some('=') && letters.next().is_some() && !attribute.starts_with('m')
}

const NONCE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: [u8; 12] = [9; 12];

    fn file() -> Arc<PasswordFile> {
        let line = |user: &str, cost| format!("{user}:{}\n", Hash::make(cost, &SALT, b"pencil"));
        let text = [
            line("alice", Cost::Pbkdf2 { iterations: 5 }),
            line("a,b=c", Cost::Pbkdf2 { iterations: 5 }),
            line("old", Cost::Sha512),
        ];
        Arc::new(PasswordFile::parse(text.concat().as_bytes()).unwrap())
    }

    fn exchange() -> Box<dyn MethodExchange> {
        let ground = Ground {
            users: Users::File(file()),
            nonce: [1; 24],
        };
        ScramSha512.begin(&ground).unwrap()
    }

    fn asked(exchange: &mut Box<dyn MethodExchange>, first: &str) -> String {
        match exchange.step(first.as_bytes()) {
            Step::Continue(data) => String::from_utf8(data.to_vec()).unwrap(),
            other => panic!("{first}: {other:?}"),
        }
    }

    /// The client's side, from section 3 of the RFC.
    fn proof(password: &[u8], bare: &str, server_first: &str, without_proof: &str) -> String {
        let mut salted = [0; 64];
        pbkdf2::pbkdf2_hmac::<Sha512>(password, &SALT, 5, &mut salted);
        let key = hmac(&salted, &[b"Client Key"]);
        let stored: [u8; 64] = Sha512::digest(key).into();
        let said = format!("{bare},{server_first},{without_proof}");
        let signature = hmac(&stored, &[said.as_bytes()]);
        let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    fn answer(header: &str, bare: &str, password: &[u8]) -> Step {
        let mut exchange = exchange();
        let server_first = asked(&mut exchange, &format!("{header}{bare}"));
        let nonce = server_first.split(',').next().unwrap();
        let without_proof = format!("c={},{nonce}", STANDARD.encode(header));
        let last = proof(password, bare, &server_first, &without_proof);
        exchange.step(last.as_bytes())
    }

    fn refused(step: &Step) -> bool {
        *step == Step::Failure(ReasonCode::NotAuthorized)
    }

    #[test]
    fn whoever_knows_the_password_comes_in_under_its_name() {
        for (header, bare, user) in [
            ("n,,", "n=alice,r=abc", "alice"),
            ("y,,", "n=alice,r=abc", "alice"),
            ("n,a=alice,", "n=alice,r=abc", "alice"),
            ("n,,", "n=alice,r=abc,x=y", "alice"),
            ("n,,", "n=a=2Cb=3Dc,r=abc", "a,b=c"),
        ] {
            let Step::Success(success) = answer(header, bare, b"pencil") else {
                panic!("{header}{bare}");
            };
            assert_eq!(success.user.as_deref(), Some(user));
            assert!(success.credential.is_some());
            assert!(success.data.unwrap().starts_with(b"v="));
            assert!(refused(&answer(header, bare, b"pencils")), "{header}{bare}");
        }
    }

    #[test]
    fn whoever_is_not_there_is_asked_the_same_each_time_and_fails() {
        for user in ["zoe", "old"] {
            let first = format!("n,,n={user},r=abc");
            let question = asked(&mut exchange(), &first);
            assert_eq!(question, asked(&mut exchange(), &first));
            assert!(question.ends_with(",i=5"), "{question}");
            let salt = question.split(",s=").nth(1).unwrap();
            assert_eq!(STANDARD.decode(&salt[..16]).unwrap().len(), 12);
            assert!(refused(&answer("n,,", &first[3..], b"pencil")));
            assert!(refused(&answer("n,,", &first[3..], b"")));
        }
    }

    #[test]
    fn first_messages_that_are_none_are_refused() {
        for first in [
            "",
            "n",
            "n,,",
            "n,,r=abc",
            "n,,n=,r=abc",
            "n,,n=alice",
            "n,,n=alice,r=",
            "n,,n=alice,r=a b",
            "n,,n=al=ice,r=abc",
            "n,,n=alice=2,r=abc",
            "n,,n=alice=2c,r=abc",
            "n,,n=alice=é,r=abc",
            "n,,m=x,n=alice,r=abc",
            "n,,n=alice,r=abc,m=x",
            "n,,n=alice,r=abc,x",
            "n,,n=alice,r=abc,",
            "n,a=bob,n=alice,r=abc",
            "n,alice,n=alice,r=abc",
            "p=tls-unique,,n=alice,r=abc",
            "z,,n=alice,r=abc",
        ] {
            assert!(refused(&exchange().step(first.as_bytes())), "{first}");
        }
        assert!(refused(&exchange().step(b"n,,n=\xff,r=abc")));
    }

    #[test]
    fn final_messages_that_are_none_are_refused() {
        let bare = "n=alice,r=abc";
        let of_nonce = |build: &dyn Fn(&str) -> String| {
            let mut exchange = exchange();
            let question = asked(&mut exchange, &format!("n,,{bare}"));
            let nonce = question.split(',').next().unwrap();
            let last = proof(b"pencil", bare, &question, &build(nonce));
            exchange.step(last.as_bytes())
        };
        let good = |nonce: &str| format!("c=biws,{nonce}");
        assert!(matches!(of_nonce(&good), Step::Success(_)));
        let with_extension = |nonce: &str| format!("c=biws,{nonce},x=1");
        assert!(matches!(of_nonce(&with_extension), Step::Success(_)));
        // Another header, another nonce, nothing of it, things out of order.
        assert!(refused(&of_nonce(&|nonce| format!("c=eSws,{nonce}"))));
        assert!(refused(&of_nonce(&|nonce| format!("c=biws,{nonce}x"))));
        assert!(refused(&of_nonce(&|_| "c=biws,r=abc".into())));
        assert!(refused(&of_nonce(&|nonce| format!("{nonce},c=biws"))));
        assert!(refused(&of_nonce(&|nonce| format!("c=biws,{nonce},m=1"))));
        for last in ["", "c=biws", "c=biws,r=abc,p=!", "c=biws,r=abc,p=AAAA"] {
            let mut exchange = exchange();
            asked(&mut exchange, &format!("n,,{bare}"));
            assert!(refused(&exchange.step(last.as_bytes())), "{last}");
            // One answer for each question.
            assert!(refused(&exchange.step(last.as_bytes())));
        }
    }

    #[test]
    fn without_a_password_file_it_is_not_offered() {
        for users in [Users::Unchecked, Users::Missing] {
            let nonce = [1; 24];
            assert!(ScramSha512.begin(&Ground { users, nonce }).is_none());
        }
    }
}

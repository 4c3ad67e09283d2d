//! Enhanced authentication (4.12): methods that take more than one step, at CONNECT and again while connected.
//!
//! States of one exchange: begun by CONNECT or by AUTH 0x19; each AUTH 0x18 is one step; it ends in success or failure.
//! CONNECT with a method that is not offered on its listener is refused with 0x8C [MQTT-4.12.0-1].

use std::sync::Arc;

use bytes::Bytes;
use nightjar_codec::ReasonCode;

use crate::auth::{Hash, Users};

/// A way to authenticate, known by its name.
pub trait Method: Send + Sync {
    fn name(&self) -> &str;
    /// A new exchange with one client; `None`: not offered to it.
    fn begin(&self, with: &Ground) -> Option<Box<dyn MethodExchange>>;
}

/// What an exchange begins with.
pub struct Ground {
    /// Whom the client's listener knows.
    pub users: Users,
    /// Nobody can guess it, and it comes once.
    pub nonce: [u8; 24],
}

/// One exchange of a [`Method`].
pub trait MethodExchange {
    /// Takes the Authentication Data of the client's CONNECT or AUTH.
    fn step(&mut self, data: &[u8]) -> Step;

    /// Who the client says it is, once it has said so.
    fn user(&self) -> Option<&str> {
        None
    }
}

/// What the server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// AUTH 0x18 with this data.
    Continue(Bytes),
    /// CONNACK or AUTH with success.
    Success(Box<Success>),
    /// CONNACK or DISCONNECT with this code.
    Failure(ReasonCode),
}

/// What an exchange has proved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Success {
    /// Authentication Data of the success.
    pub data: Option<Bytes>,
    /// Who the client is; `None`: the method has no users.
    pub user: Option<Box<str>>,
    /// What it was proved with.
    pub credential: Option<Arc<Hash>>,
}

/// The methods of a broker.
pub type Methods = Arc<[Arc<dyn Method>]>;

/// An exchange that is under way, bound to the method it began with [MQTT-4.12.0-5].
pub struct Exchange {
    pub method: Box<str>,
    exchange: Box<dyn MethodExchange>,
}

impl Exchange {
    /// Begins the named method; `None`: there is no such method here.
    pub fn begin(methods: &Methods, name: &str, with: &Ground) -> Option<Self> {
        let method = methods.iter().find(|method| method.name() == name)?;
        Some(Self {
            method: name.into(),
            exchange: method.begin(with)?,
        })
    }

    pub fn step(&mut self, data: Option<&[u8]>) -> Step {
        self.exchange.step(data.unwrap_or_default())
    }

    pub fn user(&self) -> Option<&str> {
        self.exchange.user()
    }
}

/// A method that proves every transition in tests: asks `challenge`, expects `response`.
pub struct ChallengeMethod;

struct ChallengeExchange {
    asked: bool,
}

impl Method for ChallengeMethod {
    fn name(&self) -> &str {
        "test-challenge"
    }

    fn begin(&self, _: &Ground) -> Option<Box<dyn MethodExchange>> {
        Some(Box::new(ChallengeExchange { asked: false }))
    }
}

impl MethodExchange for ChallengeExchange {
    fn step(&mut self, data: &[u8]) -> Step {
        if !self.asked {
            self.asked = true;
            return Step::Continue(Bytes::from_static(b"challenge"));
        }
        if data == b"response" {
            Step::Success(Box::default())
        } else {
            Step::Failure(ReasonCode::NotAuthorized)
        }
    }
}

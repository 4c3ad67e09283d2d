//! A client that has proven to own a certificate: who it is, how long that holds, and whether it still does.

use std::fmt;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::files::{SerialOfIssuer, seconds, without_zeros};
use crate::identity::{Identity, IdentityFault};

/// One client's certificates, as they were verified when it came.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    /// Its own first.
    chain: Vec<CertificateDer<'static>>,
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
    /// Seconds since 1970: when the first of the chain ends; `u64::MAX`: never.
    not_after: u64,
    void: OnceLock<Void>,
}

/// Why a certificate that was good is so no more.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Void {
    Revoked,
    Expired,
    /// Another took its place, and the time in which both were good is over.
    Replaced,
    /// It does not lead to an authority that is trusted; in the words of the library.
    Untrusted(Box<str>),
}

impl Client {
    /// Reads certificates whose chain and dates were verified before; the client's own comes first.
    pub(crate) fn of(
        chain: &[CertificateDer<'_>],
        looks_at_dates: bool,
    ) -> Result<Self, IdentityFault> {
        let own = chain.first().ok_or(IdentityFault::Unreadable)?;
        let identity = Identity::of(own)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| IdentityFault::Unreadable)?;
        let mut not_after = seconds(parsed.validity().not_after.timestamp());
        let mut signer = parsed.issuer().as_raw();
        let between = chain.get(1..).unwrap_or_default().iter();
        let between: Vec<X509Certificate<'_>> = between
            .map_while(|between| X509Certificate::from_der(between).ok())
            .map(|(_, between)| between)
            .collect();
        for between in &between {
            // Others may be sent along that lead nowhere; what they say does not matter.
            if between.subject().as_raw() == signer {
                not_after = not_after.min(seconds(between.validity().not_after.timestamp()));
                signer = between.issuer().as_raw();
            }
        }
        Ok(Self {
            identity,
            issuer: parsed.issuer().as_raw().into(),
            serial: without_zeros(parsed.raw_serial()).into(),
            not_after: if looks_at_dates { not_after } else { u64::MAX },
            void: OnceLock::new(),
            chain: chain
                .iter()
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        })
    }

    /// Whose certificate was looked at elsewhere, and is not here. `not_after`: as the method.
    pub fn named(identity: Identity, not_after: u64) -> Self {
        Self {
            identity,
            chain: Vec::new(),
            issuer: Box::default(),
            serial: Box::default(),
            not_after,
            void: OnceLock::new(),
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Seconds since 1970: when the first certificate between it and its authority ends; `u64::MAX` where dates do not matter.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// From here on nobody is to believe it. The first reason holds.
    pub fn make_void(&self, why: Void) {
        let _ = self.void.set(why);
    }

    pub fn why_void(&self) -> Option<&Void> {
        self.void.get()
    }

    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// As a list of what was revoked has it.
    pub(crate) fn serial_of_issuer(&self) -> SerialOfIssuer {
        (self.issuer.clone(), self.serial.clone())
    }

    pub(crate) fn serial(&self) -> &[u8] {
        &self.serial
    }
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("its certificate was revoked"),
            Self::Expired => f.write_str("its certificate has expired"),
            Self::Replaced => {
                f.write_str("its certificate was replaced, and the time for both is over")
            }
            Self::Untrusted(reason) => {
                write!(f, "its certificate is not trusted any more: {reason}")
            }
        }
    }
}

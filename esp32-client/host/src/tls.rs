//! mbedTLS as the chip uses it: trust in one root, a certificate of the device's own, and the dates of the broker's checked.

use std::ffi::CString;
use std::fmt;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use mbedtls_rs::sys::{
    MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE, MBEDTLS_ERR_X509_CERT_VERIFY_FAILED, MbedtlsError,
};
use mbedtls_rs::{
    Certificate, ClientSessionConfig, Credentials, PrivateKey, SessionConfig, SessionError, Tls,
    TlsVersion, X509,
};
use nightjar_esp32_core::Provisioning;

use crate::clock::SystemClock;

/// Whether the device shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// With its certificate.
    Shown,
    /// Without, to see it refused.
    Withheld,
}

/// mbedTLS, of which there is one in a process, with its clock and its random numbers.
#[must_use]
pub fn start() -> Tls<'static> {
    SystemClock.hook();
    // Lives as long as the process, as mbedTLS does.
    let random = Box::leak(Box::new(UnwrapErr(SysRng)));
    Tls::new(random).expect("this is called once")
}

/// What a connection is made with.
///
/// # Errors
/// What was provisioned is no key or no certificate.
pub fn configuration<'a>(
    provisioning: &Provisioning<'_>,
    server_name: &'a CString,
    identity: Identity,
    only: Option<TlsVersion>,
) -> Result<SessionConfig<'a>, SessionError> {
    let mut config = ClientSessionConfig::new();
    config.ca_chain = Some(Certificate::new(X509::DER(provisioning.ca))?);
    config.server_name = Some(server_name);
    config.min_version = only.unwrap_or(TlsVersion::Tls1_2);
    config.max_version = only;
    if identity == Identity::Shown {
        let chain = provisioning.certificate_chain_pem();
        let chain = CString::from_vec_with_nul(chain).unwrap_or_default();
        config.creds = Some(Credentials {
            certificate: Certificate::new(X509::PEM(&chain))?,
            private_key: PrivateKey::new(X509::DER(provisioning.key), None)?,
        });
    }
    Ok(SessionConfig::Client(config))
}

/// An error in words, with what is wrong with the broker's certificate where that is what it is.
#[must_use]
pub fn explain(error: SessionError, verification: u32) -> String {
    let error = match error {
        SessionError::MbedTls(error) => error,
        // A refusal is an alert and a close; who writes at that moment sees the close alone.
        SessionError::Io(kind) => {
            return format!("the broker has closed the connection; its log may say why ({kind:?})");
        }
    };
    match error.code() {
        MBEDTLS_ERR_X509_CERT_VERIFY_FAILED => {
            format!(
                "the broker's certificate is not accepted: {}",
                Verification(verification)
            )
        }
        MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE => {
            format!("the broker refuses the connection; its log says why ({error})")
        }
        _ => error_text(error),
    }
}

fn error_text(error: MbedtlsError) -> String {
    format!("TLS: {error}")
}

/// The bits of mbedTLS that matter.
struct Verification(u32);

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (0x01, "it has expired"),
            (0x02, "it was revoked"),
            (0x04, "it is for another name"),
            (0x08, "nobody the device trusts has signed it"),
            (0x0200, "it is not valid yet"),
        ];
        let mut said = false;
        for (_, word) in words.iter().filter(|(bit, _)| self.0 & bit != 0) {
            f.write_str(if said { ", " } else { "" })?;
            f.write_str(word)?;
            said = true;
        }
        if said {
            Ok(())
        } else {
            write!(f, "{:#x}", self.0)
        }
    }
}

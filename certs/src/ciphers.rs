//! OpenSSL's names of cipher suites, as they stand in a mosquitto.conf, and the suites of rustls.

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};

/// Each suite that there is, with OpenSSL's name; AES first, for chips that have hardware for it.
const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_256_GCM_SHA384", TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", TLS13_AES_128_GCM_SHA256),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// The suites that a list allows, ours first where it says nothing of them, and the names in it that there are none for.
pub(crate) fn allowed(
    tls_1_2: Option<&str>,
    tls_1_3: Option<&str>,
) -> (Vec<SupportedCipherSuite>, Vec<String>) {
    let mut unknown = Vec::new();
    let mut suites = Vec::new();
    for (list, is_1_3) in [(tls_1_3, true), (tls_1_2, false)] {
        let of_version = || {
            SUITES
                .iter()
                .filter(move |(name, _)| name.starts_with("TLS_") == is_1_3)
        };
        let Some(list) = list else {
            suites.extend(of_version().map(|(_, suite)| *suite));
            continue;
        };
        for word in list
            .split([':', ',', ' '])
            .filter(|word| !word.is_empty() && !word.starts_with(['!', '-', '@']))
        {
            let word = word.strip_prefix('+').unwrap_or(word);
            // Families: everything we have is one of these.
            let is_family = !is_1_3
                && matches!(
                    word,
                    "DEFAULT"
                        | "ALL"
                        | "HIGH"
                        | "ECDHE"
                        | "EECDH"
                        | "ECDHE+AESGCM"
                        | "EECDH+AESGCM"
                );
            let found: Vec<SupportedCipherSuite> = of_version()
                .filter(|(name, _)| is_family || *name == word)
                .map(|(_, suite)| *suite)
                .collect();
            if found.is_empty() {
                unknown.push(word.to_owned());
            }
            for suite in found {
                if !suites.contains(&suite) {
                    suites.push(suite);
                }
            }
        }
    }
    (suites, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_allows_what_it_names_and_names_without_a_suite_are_told() {
        let (suites, unknown) = allowed(
            Some("ECDHE-ECDSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA:!MD5"),
            None,
        );
        assert_eq!(unknown, ["DHE-RSA-AES256-SHA"]);
        assert_eq!(suites.len(), 4);
        assert_eq!(suites[3], TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    }

    #[test]
    fn without_a_list_everything_is_allowed_and_aes_comes_first() {
        let (suites, unknown) = allowed(None, None);
        assert_eq!(suites.len(), SUITES.len());
        assert!(unknown.is_empty());
        assert_eq!(suites[0], TLS13_AES_256_GCM_SHA384);
    }
}

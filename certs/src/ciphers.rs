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
        let mut excluded: Vec<SupportedCipherSuite> = Vec::new();
        for word in list
            .split([':', ',', ' '])
            .filter(|word| !word.is_empty() && !word.starts_with('@'))
        {
            // `!` for good, `-` until it is named again, `+` to the end: where only good suites are left, the first two are the same, and
            // the third is as good as nothing.
            let (is_excluded, word) = match word.strip_prefix(['!', '-']) {
                Some(word) => (true, word),
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let found: Vec<SupportedCipherSuite> = of_version()
                .filter(|(name, _)| *name == word || !is_1_3 && is_of_family(name, word))
                .map(|(_, suite)| *suite)
                .collect();
            if is_excluded {
                excluded.extend(found);
                continue;
            }
            if found.is_empty() {
                unknown.push(word.to_owned());
            }
            for suite in found {
                if !suites.contains(&suite) {
                    suites.push(suite);
                }
            }
        }
        suites.retain(|suite| !excluded.contains(suite));
    }
    (suites, unknown)
}

/// Whether OpenSSL means a suite of TLS 1.2, by its name there, with a word such as `ECDHE+AESGCM`.
fn is_of_family(name: &str, word: &str) -> bool {
    word.split('+').all(|term| match term {
        // All that there is: ephemeral keys, 128 bits and more, encryption that authenticates.
        "ALL" | "DEFAULT" | "HIGH" | "TLSv1.2" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" => true,
        "AESGCM" | "AES" => name.contains("-AES"),
        "AES128" => name.contains("-AES128-"),
        "AES256" => name.contains("-AES256-"),
        "CHACHA20" => name.contains("-CHACHA20-"),
        "ECDSA" | "aECDSA" => name.contains("-ECDSA-"),
        "aRSA" => name.contains("-RSA-"),
        "SHA256" => name.ends_with("-SHA256"),
        "SHA384" => name.ends_with("-SHA384"),
        _ => false,
    })
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
    fn families_are_those_of_openssl_and_what_is_excluded_is_left_out() {
        let names = |list: &str| {
            let (suites, unknown) = allowed(Some(list), Some("TLS_AES_128_GCM_SHA256"));
            let mut names: Vec<&str> = Vec::new();
            for suite in &suites[1..] {
                let known = SUITES.iter().find(|(_, known)| known == suite);
                names.push(known.unwrap().0);
            }
            (names.join(":"), unknown.join(":"))
        };
        assert_eq!(
            names("ECDHE+ECDSA+AES128:EDH+AESGCM:@STRENGTH"),
            ("ECDHE-ECDSA-AES128-GCM-SHA256".into(), "EDH+AESGCM".into())
        );
        assert_eq!(
            names("HIGH:!aNULL:!CHACHA20:!aRSA:!SHA384"),
            ("ECDHE-ECDSA-AES128-GCM-SHA256".into(), String::new())
        );
    }

    #[test]
    fn without_a_list_everything_is_allowed_and_aes_comes_first() {
        let (suites, unknown) = allowed(None, None);
        assert_eq!(suites.len(), SUITES.len());
        assert!(unknown.is_empty());
        assert_eq!(suites[0], TLS13_AES_256_GCM_SHA384);
    }
}

//! TLS of the webhooks: which versions and suites are spoken, and the certificate that is shown, which may change while
//! connections come and go.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion, version};

/// What the API server's client for webhooks speaks; it does not ask for HTTP/2, so as to spread over replicas.
const HTTP_1_1: &[u8] = b"http/1.1";

/// What may be spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Nothing below TLS 1.3.
    pub only_1_3: bool,
    /// Suites of TLS 1.2 and 1.3, as Go and IANA name them; those that are not spoken here are passed over. None: all.
    pub cipher_suites: Vec<String>,
}

/// Why TLS cannot be set up, or a certificate not be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for leaves nothing to speak.
    #[error("cannot set up TLS: {0}")]
    Settings(rustls::Error),
    /// The PEM of the certificate cannot be read, or has none.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The PEM of the key cannot be read, or has none.
    #[error("the key cannot be read: {0}")]
    Key(String),
    /// The key is not the certificate's, or of a kind that is not spoken.
    #[error("certificate and key do not go together: {0}")]
    Pair(rustls::Error),
}

/// The certificate that is shown now; none at first. A clone is the same one.
#[derive(Clone, Default)]
pub struct Shown(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl Shown {
    /// Shows another one to connections that begin from now on.
    pub fn show(&self, certificate: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certificate));
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A certificate with its chain, and its key, both as PEM.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(Error::Certificate("it holds none".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::Key(error.to_string()))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(Error::Pair)
}

/// The server's side of TLS.
pub fn config(settings: &Settings, shown: &Shown) -> Result<Arc<ServerConfig>, Error> {
    const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    let cipher_suites = suites(&settings.cipher_suites);
    let provider = CryptoProvider { cipher_suites, ..ring::default_provider() };
    let has_1_2 = provider.cipher_suites.iter().any(|suite| suite.version().version == ProtocolVersion::TLSv1_2);
    let versions = if settings.only_1_3 || !has_1_2 { &BOTH[..1] } else { &BOTH[..] };
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(Error::Settings)?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(shown.clone()));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// The suites that are asked for. As in Go, the list is about TLS 1.2: those of TLS 1.3 are always spoken.
fn suites(names: &[String]) -> Vec<SupportedCipherSuite> {
    let all = ring::default_provider().cipher_suites;
    if names.is_empty() {
        return all;
    }
    let is_wanted = |suite: &SupportedCipherSuite| {
        suite.version().version == ProtocolVersion::TLSv1_3 || names.iter().any(|name| names_it(name, *suite))
    };
    all.into_iter().filter(is_wanted).collect()
}

/// The names that are not spoken here, though they may exist.
pub fn unspoken(names: &[String]) -> Vec<&str> {
    let all = ring::default_provider().cipher_suites;
    let unspoken = names.iter().filter(|name| !all.iter().any(|suite| names_it(name, *suite)));
    unspoken.map(String::as_str).collect()
}

/// Whether that is the suite's name in Go, which has two for ChaCha20, or at IANA.
fn names_it(name: &str, suite: SupportedCipherSuite) -> bool {
    let ours = format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1);
    ours == name || ours.strip_suffix("_SHA256").is_some_and(|short| short.ends_with("POLY1305") && short == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn spoken(settings: &Settings) -> Vec<String> {
        let config = config(settings, &Shown::default()).expect("a configuration");
        let suites = config.crypto_provider().cipher_suites.iter();
        suites.map(|suite| format!("{:?}", suite.suite())).collect()
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let ((chain, key), (_, other)) = (pair("a"), pair("b"));
        assert!(certified(chain.as_bytes(), key.as_bytes()).is_ok());
        assert!(matches!(certified(chain.as_bytes(), other.as_bytes()), Err(Error::Pair(_))));
        assert!(matches!(certified(b"", key.as_bytes()), Err(Error::Certificate(_))));
        assert!(matches!(certified(key.as_bytes(), key.as_bytes()), Err(Error::Certificate(_))));
        let broken = chain.replace("MI", "!!");
        assert!(matches!(certified(broken.as_bytes(), key.as_bytes()), Err(Error::Certificate(_))));
        assert!(matches!(certified(chain.as_bytes(), b"nothing"), Err(Error::Key(_))));
    }

    #[test]
    fn suites_are_named_as_in_go() {
        let wanted = [
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_AES_128_GCM_SHA256",
        ];
        assert_eq!(unspoken(&names(&wanted)), Vec::<&str>::new());
        let settings = Settings { cipher_suites: names(&wanted), only_1_3: false };
        assert_eq!(
            spoken(&settings),
            [
                "TLS13_AES_256_GCM_SHA384",
                "TLS13_AES_128_GCM_SHA256",
                "TLS13_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            ]
        );
        assert_eq!(spoken(&Settings::default()).len(), ring::default_provider().cipher_suites.len());
    }

    #[test]
    fn suites_that_are_not_spoken_are_told_and_leave_tls_1_3() {
        let old = names(&["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(unspoken(&old), ["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        let settings = Settings { cipher_suites: names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]), only_1_3: false };
        assert!(spoken(&settings).iter().all(|name| name.starts_with("TLS13_")));
    }
}

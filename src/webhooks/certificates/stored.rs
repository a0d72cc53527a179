//! What the Secret holds, as far as it makes sense: damage to one part leaves the others of use.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::super::tls::certified;
use super::plan::BACKDATED;

/// The trusted authorities, the signing one first.
pub const BUNDLE: &str = "ca.crt";
/// The key of the signing authority.
pub const AUTHORITY_KEY: &str = "ca.key";
/// What is shown.
pub const CERTIFICATE: &str = "tls.crt";
/// Its key.
pub const KEY: &str = "tls.key";

/// What an authority of ours is called: nobody else's is taken over from a bundle.
pub const AUTHORITY_NAME: &str = "capi-ipam-in-cluster webhooks";

/// More are not kept: a rotation has two.
const MOST_TRUSTED: usize = 4;

/// The data of a Secret.
pub type Data = BTreeMap<String, ByteString>;

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// When it was made.
    pub begins: Timestamp,
    /// When it is refused.
    pub ends: Timestamp,
}

impl Life {
    /// When two thirds of it are over.
    pub fn renewal(&self) -> Timestamp {
        let life = self.ends.duration_since(self.begins);
        self.begins.checked_add(life / 3 * 2).unwrap_or(Timestamp::MIN)
    }
}

/// An authority that is or was ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// Its certificate.
    pub pem: String,
    /// How long it lasts.
    pub life: Life,
}

/// The certificate that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// How long it lasts.
    pub life: Life,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// Which of the trusted authorities signed it.
    pub signer: Option<usize>,
}

/// What makes sense of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The authorities in the bundle.
    pub trusted: Vec<Trusted>,
    /// Whether the first of them can sign: its key is there.
    pub can_sign: bool,
    /// What is shown, if it can be.
    pub leaf: Option<Leaf>,
}

impl Stored {
    /// Reads the data of a Secret.
    pub fn read(data: &Data) -> Self {
        let part = |name: &str| data.get(name).map(|ByteString(bytes)| bytes.as_slice()).unwrap_or_default();
        let known = known(part(BUNDLE));
        let key = std::str::from_utf8(part(AUTHORITY_KEY)).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let can_sign = known.first().is_some_and(|(der, _)| {
            let parsed = X509Certificate::from_der(der);
            parsed.is_ok_and(|(_, parsed)| {
                key.is_some_and(|key| parsed.public_key().raw == key.subject_public_key_info())
            })
        });
        let leaf = leaf(part(CERTIFICATE), part(KEY), &known);
        Self { trusted: known.into_iter().map(|(_, trusted)| trusted).collect(), can_sign, leaf }
    }

    /// The certificates of all trusted authorities, as webhook configurations have them.
    pub fn bundle(&self) -> String {
        bundle(&self.trusted)
    }
}

/// One text of them all.
pub fn bundle(trusted: &[Trusted]) -> String {
    trusted.iter().map(|trusted| trusted.pem.as_str()).collect()
}

/// The authorities of ours in a bundle that somebody has.
pub fn ours(bundle: &[u8]) -> Vec<Trusted> {
    known(bundle).into_iter().map(|(_, trusted)| trusted).collect()
}

type Known = Vec<(CertificateDer<'static>, Trusted)>;

fn known(pem: &[u8]) -> Known {
    let ders = CertificateDer::pem_slice_iter(pem).map_while(Result::ok);
    ders.filter_map(|der| Some((der.clone(), trusted(&der)?))).take(MOST_TRUSTED).collect()
}

fn trusted(der: &CertificateDer<'static>) -> Option<Trusted> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let is_ours =
        parsed.subject().iter_common_name().any(|name| name.as_str().is_ok_and(|name| name == AUTHORITY_NAME));
    (is_ours && parsed.is_ca()).then_some(())?;
    Some(Trusted { pem: rendered(der)?, life: life(&parsed)? })
}

/// As PEM (RFC 7468), always the same for one certificate: so bundles can be compared as texts.
fn rendered(der: &CertificateDer<'static>) -> Option<String> {
    // A ByteString is base64 in JSON.
    let encoded = serde_json::to_value(ByteString(der.to_vec())).ok()?;
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in encoded.as_str()?.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    Some(pem)
}

fn life(parsed: &X509Certificate<'_>) -> Option<Life> {
    let time = |time: &x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = parsed.validity();
    let begins = time(&validity.not_before)?.checked_add(BACKDATED).ok()?;
    Some(Life { begins, ends: time(&validity.not_after)? })
}

fn leaf(chain: &[u8], key: &[u8], authorities: &Known) -> Option<Leaf> {
    let pair = certified(chain, key).ok()?;
    let (_, parsed) = X509Certificate::from_der(pair.cert.first()?).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let names = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let signs = |(authority, _): &(CertificateDer<'static>, Trusted)| {
        let authority = X509Certificate::from_der(authority);
        authority.is_ok_and(|(_, authority)| parsed.verify_signature(Some(authority.public_key())).is_ok())
    };
    Some(Leaf { life: life(&parsed)?, names: names.collect(), signer: authorities.iter().position(signs) })
}

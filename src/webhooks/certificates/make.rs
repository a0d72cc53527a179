//! Makes keys, authorities and certificates.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::time::ASN1Time;

use super::plan::{BACKDATED, Lives};
use super::stored::{AUTHORITY_KEY, AUTHORITY_NAME, BUNDLE, CERTIFICATE, Data, KEY, Trusted, bundle};

/// Why nothing could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The library says so.
    #[error("cannot make a certificate: {0}")]
    Library(#[from] rcgen::Error),
    /// The authority is not what it was when it was read.
    #[error("cannot make a certificate: the authority cannot be read")]
    Authority,
    /// It would be valid at a time that no certificate can name.
    #[error("cannot make a certificate: {0} is no time of a certificate")]
    Time(Timestamp),
}

/// The data with a new authority in front of these; what is shown stays.
pub(super) fn with_authority(mut data: Data, others: &[Trusted], now: Timestamp, lives: Lives) -> Result<Data, Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    // Two of them have two names: a verifier does not try the wrong key first.
    params.distinguished_name.push(DnType::OrganizationalUnitName, now.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, now, now.checked_add(lives.authority()).unwrap_or(Timestamp::MAX))?;
    let certificate = params.self_signed(&key)?;
    let text = [certificate.pem().replace("\r\n", "\n"), bundle(others)].concat();
    put(&mut data, BUNDLE, text);
    put(&mut data, AUTHORITY_KEY, key.serialize_pem());
    Ok(data)
}

/// The data with a new certificate for these names, signed by the first authority.
pub(super) fn with_certificate(
    mut data: Data,
    authority: &Trusted,
    names: &[String],
    now: Timestamp,
    lives: Lives,
) -> Result<Data, Error> {
    let authority_key = data.get(AUTHORITY_KEY).and_then(|ByteString(pem)| std::str::from_utf8(pem).ok());
    let authority_key = KeyPair::from_pem(authority_key.ok_or(Error::Authority)?)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.pem, authority_key)?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("webhooks", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let ends = now.checked_add(lives.certificate()).unwrap_or(Timestamp::MAX).min(authority.life.ends);
    set_life(&mut params, now, ends)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    put(&mut data, CERTIFICATE, certificate.pem());
    put(&mut data, KEY, key.serialize_pem());
    Ok(data)
}

/// The data with these authorities alone.
pub(super) fn trusting(mut data: Data, trusted: &[Trusted]) -> Data {
    put(&mut data, BUNDLE, bundle(trusted));
    data
}

fn put(data: &mut Data, name: &str, text: String) {
    data.insert(name.to_owned(), ByteString(text.into_bytes()));
}

fn set_life(params: &mut CertificateParams, begins: Timestamp, ends: Timestamp) -> Result<(), Error> {
    let begins = begins.checked_sub(BACKDATED).unwrap_or(Timestamp::MIN);
    let time = |of: Timestamp| ASN1Time::from_timestamp(of.as_second()).map_err(|_| Error::Time(of));
    params.not_before = time(begins)?.to_datetime();
    params.not_after = time(ends)?.to_datetime();
    Ok(())
}

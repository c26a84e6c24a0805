//! A certificate authority made by a test, and certificates of its in files, for servers and rules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority whose files lie in one directory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    name: String,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Chain.
    pub certificate: PathBuf,
    /// Key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with its own certificate in `DIR/NAME.pem`.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::create_dir_all(dir)?;
        let authority = Self { issuer, dir: dir.to_owned(), name: name.to_owned() };
        fs::write(authority.file(), authority.issuer.pem())?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.join(format!("{}.pem", self.name))
    }

    /// A certificate of common name `stem` for these DNS names, in files called after it.
    pub fn issue(&self, stem: &str, names: &[&str]) -> Result<Signed> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, stem);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let at = |end: &str| self.dir.join(format!("{}-{stem}.{end}", self.name));
        fs::write(at("crt"), certificate.pem())?;
        fs::write(at("key"), key.serialize_pem())?;
        Ok(Signed { certificate: at("crt"), key: at("key") })
    }
}

/// An authority that may sign, in `DIR` as cert-manager has it: `tls.crt`, `tls.key`, `ca.crt`. Takes the place of another.
pub fn signing_authority(dir: &Path, name: &str) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    fs::create_dir_all(dir)?;
    let files =
        [("tls.key", key.serialize_pem()), ("tls.crt", certificate.pem()), ("ca.crt", certificate.pem())];
    for (file, text) in files {
        // Whole or not at all, as a Secret's files change.
        let new = dir.join("new");
        fs::write(&new, text)?;
        fs::rename(&new, dir.join(file))?;
    }
    Ok(())
}

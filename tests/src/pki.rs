//! A certificate authority made by a test, and certificates of its in files, for servers and rules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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

/// The authority of a mesh: what it signs proves who a workload is.
pub struct MeshAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A workload's certificate and key, as a peer that a test plays has them.
#[derive(Debug)]
pub struct Svid {
    /// It, and nothing above.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl MeshAuthority {
    /// A new one, whose files are in `DIR` as [`signing_authority`] has them.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_authority(dir, &issuer.key().serialize_pem(), &issuer.pem())?;
        Ok(Self { issuer })
    }

    /// Its own certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate for this SPIFFE id.
    pub fn svid(&self, id: &str) -> Result<Svid> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(id.try_into()?));
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| anyhow!("its key: {why}"))?;
        Ok(Svid { chain: vec![certificate.der().clone()], key })
    }
}

/// An authority that may sign, in `DIR` as cert-manager has it: `tls.crt`, `tls.key`, `ca.crt`. Takes the place of another.
pub fn signing_authority(dir: &Path, name: &str) -> Result<()> {
    MeshAuthority::new(dir, name).map(drop)
}

fn write_authority(dir: &Path, key: &str, certificate: &str) -> Result<()> {
    fs::create_dir_all(dir)?;
    for (file, text) in [("tls.key", key), ("tls.crt", certificate), ("ca.crt", certificate)] {
        // Whole or not at all, as a Secret's files change.
        let new = dir.join("new");
        fs::write(&new, text)?;
        fs::rename(&new, dir.join(file))?;
    }
    Ok(())
}

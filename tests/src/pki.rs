//! Certificate authorities made by a test: certificates in files for servers and rules, and the mesh's own root, under which
//! a test forges what it likes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

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

/// The mesh's authority: agents sign with it from files, and a test forges with it what no agent ever would.
pub struct MeshAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a forged certificate says.
#[derive(Clone, Debug)]
pub struct Claims<'c> {
    /// URI names.
    pub uris: &'c [&'c str],
    /// First and last moment, in seconds from now.
    pub life: (i64, i64),
}

/// A chain and its key, to be shown by a peer that a test plays.
#[derive(Debug)]
pub struct Svid {
    /// Certificates, the peer's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key of the first.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl<'c> Claims<'c> {
    /// Valid for an hour, under these names.
    pub fn of(uris: &'c [&'c str]) -> Self {
        Self { uris, life: (-60, 3600) }
    }

    /// The same within other bounds, in seconds from now.
    pub fn within(self, from: i64, to: i64) -> Self {
        Self { life: (from, to), ..self }
    }
}

impl MeshAuthority {
    /// A new one, whose files are in `DIR` as [`MeshAuthority::install`] has them.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let authority = Self::named(name)?;
        authority.install(dir, &[])?;
        Ok(authority)
    }

    /// One with this common name that nobody signs with yet.
    pub fn named(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// Its own certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Has whoever reads `dir` sign with this root, and trust it and `others`. As cert-manager has it: `tls.crt`, `tls.key`,
    /// `ca.crt`. Takes the place of another.
    pub fn install(&self, dir: &Path, others: &[&MeshAuthority]) -> Result<()> {
        let own = self.issuer.pem();
        let others = others.iter().map(|root| root.issuer.pem());
        let trusted: String = std::iter::once(own.clone()).chain(others).collect();
        fs::create_dir_all(dir)?;
        for (file, text) in
            [("tls.key", self.issuer.key().serialize_pem()), ("tls.crt", own), ("ca.crt", trusted)]
        {
            // Whole or not at all, as a Secret's files change.
            let new = dir.join("new");
            fs::write(&new, text)?;
            fs::rename(&new, dir.join(file))?;
        }
        Ok(())
    }

    /// A certificate for this SPIFFE id.
    pub fn svid(&self, id: &str) -> Result<Svid> {
        self.forge(&Claims::of(&[id]))
    }

    /// A certificate that says this, whatever it is.
    pub fn forge(&self, claims: &Claims<'_>) -> Result<Svid> {
        let at = |seconds: i64| {
            let offset = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            if seconds < 0 { now - offset } else { now + offset }
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for uri in claims.uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        (params.not_before, params.not_after) = (at(claims.life.0).into(), at(claims.life.1).into());
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Svid { chain: vec![certificate.der().clone()], key: der.into() })
    }

    /// The root's own certificate and key, as if it were anybody.
    pub fn papers(&self) -> Svid {
        let der = PrivatePkcs8KeyDer::from(self.issuer.key().serialize_der());
        Svid { chain: vec![self.issuer.der().clone()], key: der.into() }
    }
}

/// An authority that may sign, in `DIR` as [`MeshAuthority::install`] has it.
pub fn signing_authority(dir: &Path, name: &str) -> Result<()> {
    MeshAuthority::new(dir, name).map(drop)
}

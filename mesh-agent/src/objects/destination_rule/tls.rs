//! `tls` of a DestinationRule (Istio reference, ClientTLSSettings): what connections to the host are wrapped in.

use std::path::PathBuf;

use rustls::pki_types::ServerName;
use serde::Deserialize;

use crate::objects::FieldError;
use crate::objects::field::nullable;

/// What connections to the host are wrapped in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTls {
    /// Mode.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: TlsMode,
    /// File with the client's chain.
    #[serde(default, deserialize_with = "nullable")]
    pub client_certificate: PathBuf,
    /// File with its key.
    #[serde(default, deserialize_with = "nullable")]
    pub private_key: PathBuf,
    /// File with the authorities that may have signed the server's certificate; empty for the system's.
    #[serde(default, deserialize_with = "nullable")]
    pub ca_certificates: PathBuf,
    /// Names of which the server's certificate must have one.
    #[serde(default, deserialize_with = "nullable")]
    pub subject_alt_names: Vec<String>,
    /// Name that the server is asked for; empty for the host.
    #[serde(default, deserialize_with = "nullable")]
    pub sni: String,
    /// Neither signature nor names of the server's certificate count.
    #[serde(default, deserialize_with = "nullable")]
    pub insecure_skip_verify: bool,
    #[serde(default, deserialize_with = "nullable")]
    credential_name: String,
    #[serde(default, deserialize_with = "nullable")]
    ca_crl: String,
}

/// `mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// None.
    #[default]
    Disable,
    /// TLS.
    Simple,
    /// TLS with a certificate of the client's.
    Mutual,
    /// The mesh's own mutual TLS.
    IstioMutual,
}

impl ClientTls {
    /// True if the agent makes the TLS connection, by what stands here.
    pub fn is_originated(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual)
    }

    /// A field that isn't supported and without which nothing may be sent.
    pub fn unsupported(&self) -> Option<&'static str> {
        let given = [("credentialName", &self.credential_name), ("caCrl", &self.ca_crl)];
        given.into_iter().find(|(_, value)| self.is_originated() && !value.is_empty()).map(|(field, _)| field)
    }

    /// As Istio's validation (`validateTLS`).
    pub(super) fn validate(&self, path: &str) -> Result<(), FieldError> {
        if !self.is_originated() {
            return Ok(());
        }
        let error = |field: &str, message: &str| Err(FieldError::new(format!("{path}{field}"), message));
        let files = [&self.client_certificate, &self.private_key];
        let named = files.iter().all(|file| !file.as_os_str().is_empty());
        if self.mode == TlsMode::Mutual && !named && self.credential_name.is_empty() {
            return error("", "MUTUAL needs clientCertificate and privateKey, or credentialName");
        }
        let own_authorities = !self.ca_certificates.as_os_str().is_empty();
        if !self.credential_name.is_empty()
            && (own_authorities || files.iter().any(|f| !f.as_os_str().is_empty()))
        {
            return error(".credentialName", "stands in place of files: give either");
        }
        if self.insecure_skip_verify && (own_authorities || !self.subject_alt_names.is_empty()) {
            return error(
                ".insecureSkipVerify",
                "true says that nothing is verified: leave out caCertificates and subjectAltNames, or this",
            );
        }
        let files = files.into_iter().chain([&self.ca_certificates]);
        if let Some(relative) =
            files.into_iter().find(|file| file.is_relative() && !file.as_os_str().is_empty())
        {
            let message = format!("{} isn't the whole path of a file on the node", relative.display());
            return error("", &message);
        }
        if !self.sni.is_empty() && ServerName::try_from(self.sni.as_str()).is_err() {
            return error(".sni", &format!("{:?} isn't a host name", self.sni));
        }
        Ok(())
    }
}

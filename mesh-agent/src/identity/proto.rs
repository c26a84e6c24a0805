//! Messages of the two protocols that certificates come by, with the fields that are used here.
//!
//! Istio's CSR service (istio/api, security/v1alpha1/ca.proto) and the SPIFFE Workload API (spiffe/spiffe, SPIFFE_Workload_API).
//! Written by hand: they are a few fields each, and no generator is needed to build the agent.

use std::collections::BTreeMap;

/// The method that signs requests.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The method that hands out SVIDs.
pub const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// Metadata of a request: whose certificate it is for, where the one who asks is a node (istio/ztunnel).
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PKCS #10 as PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Beside it.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM: the certificate, those between, the root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`, of which text alone is used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Value {
    /// `string_value`.
    #[prost(string, optional, tag = "3")]
    pub text: Option<String>,
}

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SvidRequest {}

/// `X509SVIDResponse`, without revocation lists and other trust domains' bundles.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SvidResponse {
    /// Every one that is there; one that isn't is gone.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<WorkloadSvid>,
}

/// `X509SVID`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct WorkloadSvid {
    /// Whose.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The certificate and those between, each as DER, one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS #8.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// Roots of its trust domain, each as DER, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
}

impl std::fmt::Debug for WorkloadSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadSvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl Drop for WorkloadSvid {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.x509_svid_key);
    }
}

impl CertificateRequest {
    /// For `identity`, for so many seconds.
    pub fn new(csr: String, seconds: i64, identity: &str) -> Self {
        let whose = Value { text: Some(identity.to_owned()) };
        let fields = BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), whose)]);
        Self { csr, validity_duration: seconds, metadata: Some(Struct { fields }) }
    }

    /// Whose certificate it is for, as the metadata say.
    pub fn identity(&self) -> Option<&str> {
        self.metadata.as_ref()?.fields.get(IMPERSONATED_IDENTITY)?.text.as_deref()
    }
}

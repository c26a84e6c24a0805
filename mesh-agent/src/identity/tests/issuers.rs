//! `dev` and `files`, on real files.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::super::issuer::{Issuer, News};
use super::super::testing::Root;
use super::super::trust::Bundle;
use super::super::verify::signed_under;
use super::super::{SpiffeId, peer_of, x509};

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "web")
}

async fn issue(issuer: &Issuer) -> Result<super::super::issuer::Issued, super::super::issuer::IssueError> {
    issuer.issue(&web(), Duration::from_secs(3600), SystemTime::now()).await
}

fn refresh(issuer: &Issuer) -> News {
    issuer.refresh(SystemTime::now())
}

#[tokio::test]
async fn agents_of_one_machine_share_a_development_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dev-ca");
    let (one, two) = (Issuer::dev(path.clone()).unwrap(), Issuer::dev(path.clone()).unwrap());
    let roots = refresh(&one).roots.unwrap();
    assert_eq!(refresh(&two).roots.unwrap(), roots);
    let bundle = Bundle::new(&roots).unwrap();
    for issuer in [&one, &two] {
        let issued = issue(issuer).await.unwrap();
        assert_eq!(peer_of(&issued.chain).unwrap(), web());
        assert_eq!(issued.chain.len(), 1, "peers have the root");
        signed_under(&bundle, &issued.chain, SystemTime::now()).unwrap();
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("ca.key"))), (0o700, 0o600));
}

#[test]
fn a_development_root_where_others_may_enter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Issuer::dev(dir.path().to_owned()).unwrap_err().to_string();
    assert!(error.contains("chmod 0700"), "{error}");
}

#[tokio::test]
async fn an_intermediate_of_another_s_making_signs_and_its_chain_is_sent() {
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let dir = tempfile::tempdir().unwrap();
        let root = CertifiedIssuer::self_signed(ca("root"), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let middle = ca("middle").signed_by(&key, &root).unwrap();
        for (name, text) in
            [("tls.crt", middle.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", root.pem())]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let issuer = Issuer::files(dir.path().to_owned());
        let news = refresh(&issuer);
        assert_eq!(news.problem, None, "{algorithm:?}");
        let issued = issue(&issuer).await.unwrap();
        assert_eq!(issued.chain.len(), 2);
        signed_under(&Bundle::new(&news.roots.unwrap()).unwrap(), &issued.chain, SystemTime::now()).unwrap();
    }
}

#[tokio::test]
async fn files_are_read_again_and_what_does_not_fit_leaves_the_former_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::files(dir.path().to_owned());
    assert!(refresh(&issuer).problem.unwrap().contains("tls.crt can't be read"));
    let unusable = issue(&issuer).await.unwrap_err().to_string();
    assert!(unusable.contains("tls.crt can't be read"), "{unusable}");

    let old = Root::in_files(dir.path());
    let news = refresh(&issuer);
    assert_eq!((news.roots, news.reissue, news.problem), (Some(vec![old.certificate.clone()]), None, None));
    assert_eq!(refresh(&issuer), News::default(), "nothing changed");

    let kept = std::fs::read(dir.path().join("tls.key")).unwrap();
    let new = Root::in_files(dir.path());
    let fresh = std::fs::read(dir.path().join("tls.key")).unwrap();
    std::fs::write(dir.path().join("tls.key"), kept).unwrap();
    let problem = refresh(&issuer).problem.unwrap();
    assert!(problem.contains("tls.key") && problem.contains("can't sign"), "{problem}");
    signed_under(
        &Bundle::new(std::slice::from_ref(&old.certificate)).unwrap(),
        &issue(&issuer).await.unwrap().chain,
        SystemTime::now(),
    )
    .unwrap();

    std::fs::write(dir.path().join("tls.key"), fresh).unwrap();
    let news = refresh(&issuer);
    assert_eq!((news.roots, news.problem), (Some(vec![new.certificate.clone()]), None));
    assert!(news.reissue.is_some());
    signed_under(
        &Bundle::new(std::slice::from_ref(&new.certificate)).unwrap(),
        &issue(&issuer).await.unwrap().chain,
        SystemTime::now(),
    )
    .unwrap();
}

#[tokio::test]
async fn a_certificate_ends_with_its_authority_however_long_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::in_files(dir.path());
    let issuer = Issuer::files(dir.path().to_owned());
    assert_eq!(refresh(&issuer).problem, None);
    let issued = issuer.issue(&web(), Duration::from_secs(30 * 86400), SystemTime::now()).await.unwrap();
    let end = |certificate| x509::facts(certificate).unwrap().not_after;
    assert_eq!(end(&issued.chain[0]), end(&root.certificate));
    let over = SystemTime::now() + Duration::from_secs(2 * 86400);
    assert!(
        issuer.issue(&web(), Duration::from_secs(60), over).await.is_err(),
        "an authority that is over signs nothing"
    );
}

#[test]
fn an_authority_that_its_roots_do_not_know_is_found_out_before_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    Root::in_files(dir.path());
    Root::in_files(other.path());
    std::fs::copy(other.path().join("ca.crt"), dir.path().join("ca.crt")).unwrap();
    let problem = refresh(&Issuer::files(dir.path().to_owned())).problem.unwrap();
    assert!(problem.contains("isn't trusted under the roots of"), "{problem}");
}

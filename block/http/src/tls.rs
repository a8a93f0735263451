//! TLS of `https`: the server is held against the host's list of authorities, unless the user does not want that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::BlockError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Where systems keep their list of authorities.
const LISTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Takes any certificate, for `sslverify=off`. What is signed with its key is still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn bad(path: &Path, what: impl std::fmt::Display) -> BlockError {
    BlockError::Format { path: path.display().to_string(), what: what.to_string() }
}

fn roots(list: Option<&Path>) -> Result<RootCertStore, BlockError> {
    let named = list.map(Path::to_path_buf).or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    let path = named.or_else(|| LISTS.iter().map(PathBuf::from).find(|p| p.exists()));
    let path = path.ok_or_else(|| {
        bad(
            Path::new("https"),
            "this system has no list of authorities; SSL_CERT_FILE names one, sslverify=off does without",
        )
    })?;
    let mut store = RootCertStore::empty();
    let certs = CertificateDer::pem_file_iter(&path).map_err(|e| bad(&path, e))?;
    // What is damaged or too old in it is no reason to trust nobody.
    for cert in certs.flatten() {
        let _ = store.add(cert);
    }
    if store.is_empty() { Err(bad(&path, "expected certificates in PEM")) } else { Ok(store) }
}

/// How to begin TLS.
pub(crate) fn config(verify: bool, list: Option<&Path>) -> Result<Arc<ClientConfig>, BlockError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(Path::new("https"), e))?;
    Ok(Arc::new(if verify {
        builder.with_root_certificates(roots(list)?).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth()
    }))
}

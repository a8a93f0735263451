//! TLS with certificates (`tls-creds-x509` of QEMU's manual, "TLS setup for network services"), through rustls.
//!
//! A folder holds `ca-cert.pem` with `server-cert.pem` and `server-key.pem`, or `client-cert.pem` and `client-key.pem`.
//! Anonymous and pre-shared-key credentials are not to be had from rustls.

use std::path::Path;
use std::sync::Arc;

use block::BlockError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

fn bad(path: &Path, what: impl std::fmt::Display) -> BlockError {
    BlockError::Format { path: path.display().to_string(), what: what.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BlockError> {
    let list = CertificateDer::pem_file_iter(path).map_err(|e| bad(path, e))?;
    let list: Vec<_> = list.collect::<Result<_, _>>().map_err(|e| bad(path, e))?;
    if list.is_empty() { Err(bad(path, "expected a certificate in PEM")) } else { Ok(list) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, BlockError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| bad(path, e))
}

fn roots(dir: &Path) -> Result<RootCertStore, BlockError> {
    let path = dir.join("ca-cert.pem");
    let mut store = RootCertStore::empty();
    for cert in certificates(&path)? {
        store.add(cert).map_err(|e| bad(&path, e))?;
    }
    Ok(store)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client's credentials.
#[derive(Clone, Debug)]
pub struct TlsClient(Arc<ClientConfig>);

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClient {}

impl TlsClient {
    /// Credentials in a folder; the server is held against its `ca-cert.pem`.
    pub fn open(dir: &Path) -> Result<Self, BlockError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(dir, e))?
            .with_root_certificates(roots(dir)?);
        let own = dir.join("client-cert.pem");
        let config = if own.exists() {
            let chain = certificates(&own)?;
            builder
                .with_client_auth_cert(chain, key(&dir.join("client-key.pem"))?)
                .map_err(|e| bad(&own, e))?
        } else {
            builder.with_no_client_auth()
        };
        Ok(TlsClient(Arc::new(config)))
    }

    pub(crate) fn start(&self, host: &str) -> Result<rustls::Connection, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("tls-hostname={host}: expected a host name or an address"))?;
        Ok(ClientConnection::new(self.0.clone(), name).map_err(|e| e.to_string())?.into())
    }
}

/// A server's credentials.
#[derive(Clone, Debug)]
pub struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    /// Credentials in a folder; with `verify`, clients need a certificate that its `ca-cert.pem` has signed.
    pub fn open(dir: &Path, verify: bool) -> Result<Self, BlockError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(dir, e))?;
        let builder = if verify {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(dir)?), provider());
            builder.with_client_cert_verifier(verifier.build().map_err(|e| bad(dir, e))?)
        } else {
            builder.with_no_client_auth()
        };
        let own = dir.join("server-cert.pem");
        let chain = certificates(&own)?;
        let config =
            builder.with_single_cert(chain, key(&dir.join("server-key.pem"))?).map_err(|e| bad(&own, e))?;
        Ok(TlsServer(Arc::new(config)))
    }

    /// The server's side of a connection.
    pub fn start(&self) -> Result<rustls::Connection, String> {
        Ok(ServerConnection::new(self.0.clone()).map_err(|e| e.to_string())?.into())
    }
}

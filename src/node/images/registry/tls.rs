//! Whom the registries' certificates must be signed by.
//!
//! The machine's authorities (or those of SSL_CERT_FILE and SSL_CERT_DIR, as everywhere), and
//! those of `--registry-ca`. The implementation is rustls with ring, given by hand, so that nothing
//! depends on a default of the whole process.

use crate::net::secure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// For registries whose certificates are verified. `extra` are files of authorities.
///
/// # Errors
/// Where such a file cannot be read or holds none, in words.
pub(super) fn verifying(extra: &[impl AsRef<Path>]) -> Result<ClientConfig, String> {
    let mut roots = secure::machines_authorities();
    for path in extra {
        secure::add_authorities(&mut roots, path.as_ref())
            .map_err(|error| format!("--registry-ca {error}; name a file of certificates in PEM"))?;
    }
    let builder = builder()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// For registries that an operator calls insecure.
///
/// # Errors
/// As [`verifying`].
pub(super) fn trusting() -> Result<ClientConfig, String> {
    let verifier = Arc::new(Anybody(secure::provider()));
    Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    let builder = ClientConfig::builder_with_provider(secure::provider());
    builder.with_safe_default_protocol_versions().map_err(|error| format!("TLS cannot be used: {error}"))
}

/// Takes any certificate; that whoever shows it has its key is still verified.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Administration of buckets with the AWS SDK: create what is absent, check what must be there.

use crate::error::{StoreName, chain, one_line, unreachable_reason};
use crate::{Result, S3Options, StorageError};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::time::Duration;

/// Bounds that let an unreachable store fail within 20 s: three attempts of at most 5 s and their pauses.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(18);
const ATTEMPTS: u32 = 3;

/// Region whose buckets take no location constraint.
const DEFAULT_REGION: &str = "us-east-1";

#[derive(Debug)]
pub(crate) struct Admin {
    client: Client,
    name: StoreName,
    region: String,
    buckets: BTreeSet<String>,
}

impl Admin {
    pub(crate) fn new(options: &S3Options, name: StoreName, buckets: BTreeSet<String>) -> Self {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let key = &options.credentials;
        let credentials = aws_credential_types::Credentials::new(
            &key.access_key_id,
            &key.secret_access_key,
            key.session_token.clone(),
            None,
            "lakehouse",
        );
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(options.region.clone()))
            .credentials_provider(credentials)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .force_path_style(options.endpoint.is_some());
        config.set_endpoint_url(options.endpoint.clone());
        Self { client: Client::from_conf(config.build()), name, region: options.region.clone(), buckets }
    }

    pub(crate) async fn ensure_buckets(&self) -> Result<()> {
        for bucket in &self.buckets {
            match self.head(bucket).await {
                Ok(()) => {}
                Err(StorageError::NoSuchBucket { .. }) => self.create(bucket).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) async fn check(&self) -> Result<()> {
        for bucket in &self.buckets {
            self.head(bucket).await?;
        }
        Ok(())
    }

    async fn create(&self, bucket: &str) -> Result<()> {
        let mut request = self.client.create_bucket().bucket(bucket);
        if self.region != DEFAULT_REGION {
            let place = BucketLocationConstraint::from(self.region.as_str());
            request = request.create_bucket_configuration(CreateBucketConfiguration::builder().location_constraint(place).build());
        }
        match request.send().await {
            Ok(_) => {
                tracing::info!(bucket, "created bucket");
                Ok(())
            }
            // Another process created it between our look and our request.
            Err(error) if error.code() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            // Some servers answer so for a bucket of one's own; whether it is usable is what the next look says.
            Err(error) if error.code() == Some("BucketAlreadyExists") => self.head(bucket).await,
            Err(error) => Err(self.translate(bucket, error)),
        }
    }

    /// Looks at a bucket. A HEAD answer has no body and so no error code: a refusal is asked again with a request that has one.
    async fn head(&self, bucket: &str) -> Result<()> {
        let error = match self.client.head_bucket().bucket(bucket).send().await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match error.raw_response().map(|response| response.status().as_u16()) {
            Some(404) => Err(StorageError::NoSuchBucket { store: self.name.store.clone(), bucket: bucket.to_owned() }),
            Some(301) => Err(StorageError::Bucket {
                store: self.name.store.clone(),
                bucket: bucket.to_owned(),
                reason: format!("is in another region than {}", self.region),
            }),
            Some(400 | 401 | 403) => match self.client.list_objects_v2().bucket(bucket).max_keys(1).send().await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.translate(bucket, error)),
            },
            _ => Err(self.translate(bucket, error)),
        }
    }

    fn translate<E>(&self, bucket: &str, error: SdkError<E>) -> StorageError
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let store = self.name.store.clone();
        let bucket = bucket.to_owned();
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        match (code.as_deref(), status) {
            (Some("NoSuchBucket"), _) | (None, Some(404)) => StorageError::NoSuchBucket { store, bucket },
            (_, Some(401 | 403)) | (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied"), _) => {
                StorageError::AccessDenied {
                    store,
                    key_id: self.name.key_id.clone(),
                    code: code.unwrap_or_else(|| "AccessDenied".to_owned()),
                }
            }
            (_, None) => {
                StorageError::Unreachable { store, reason: unreachable_reason(&error).unwrap_or_else(|| one_line(&chain(&error))) }
            }
            (_, Some(status)) => {
                let said = error.message().map(one_line).or(code).unwrap_or_else(|| "no reason given".to_owned());
                StorageError::Bucket { store, bucket, reason: format!("the store answered {status}: {said}") }
            }
        }
    }
}

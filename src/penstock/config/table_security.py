"""The options of TLS and SASL. Their names are known and their defaults accepted; any other value is an error for now.

Names, types, defaults and ranges are those of Apache Kafka 4.3's SslConfigs and SaslConfigs.
Source: https://kafka.apache.org/documentation/#security
"""

from __future__ import annotations

from typing import Any, Final

from .option import ALL, Importance, Kind, Option, Status

_NOT_YET: Final = "this version speaks PLAINTEXT only"

# name, type, default, importance, lowest, highest, meaning
_ROWS: Final[tuple[tuple[str, Kind, Any, Importance, float | None, float | None, str], ...]] = (
    ("security.providers", Kind.STRING, None, "low", None, None, "Java classes that provide security algorithms."),
    ("ssl.protocol", Kind.STRING, "TLSv1.3", "medium", None, None, "The TLS version to begin with."),
    ("ssl.provider", Kind.STRING, None, "medium", None, None, "Java's security provider for TLS."),
    ("ssl.cipher.suites", Kind.LIST, (), "low", None, None, "The cipher suites to offer; empty: all that TLS has."),
    ("ssl.enabled.protocols", Kind.LIST, ("TLSv1.2", "TLSv1.3"), "medium", None, None, "The TLS versions to accept."),
    ("ssl.keystore.type", Kind.STRING, "JKS", "medium", None, None, "The format of the key store."),
    ("ssl.keystore.location", Kind.STRING, None, "high", None, None, "The key store's file, for mutual TLS."),
    ("ssl.keystore.password", Kind.PASSWORD, None, "high", None, None, "The key store's password."),
    ("ssl.key.password", Kind.PASSWORD, None, "high", None, None, "The password of the private key."),
    ("ssl.keystore.key", Kind.PASSWORD, None, "high", None, None, "The private key itself, as PEM."),
    ("ssl.keystore.certificate.chain", Kind.PASSWORD, None, "high", None, None, "The client's certificates, as PEM."),
    ("ssl.truststore.certificates", Kind.PASSWORD, None, "high", None, None, "The trusted certificates, as PEM."),
    ("ssl.truststore.type", Kind.STRING, "JKS", "medium", None, None, "The format of the trust store."),
    ("ssl.truststore.location", Kind.STRING, None, "high", None, None, "The file of the trusted certificates."),
    ("ssl.truststore.password", Kind.PASSWORD, None, "high", None, None, "The trust store's password."),
    ("ssl.keymanager.algorithm", Kind.STRING, "SunX509", "low", None, None, "Java's key manager algorithm."),
    ("ssl.trustmanager.algorithm", Kind.STRING, "PKIX", "low", None, None, "Java's trust manager algorithm."),
    ("ssl.endpoint.identification.algorithm", Kind.STRING, "https", "low", None, None,
     "Whether the broker's certificate must name its host (`https`), or need not (empty)."),
    ("ssl.secure.random.implementation", Kind.STRING, None, "low", None, None, "Java's source of randomness."),
    ("ssl.engine.factory.class", Kind.CALLABLE, None, "low", None, None, "What makes the TLS engine."),
    ("sasl.mechanism", Kind.STRING, "GSSAPI", "medium", None, None, "How the client proves who it is."),
    ("sasl.jaas.config", Kind.PASSWORD, None, "medium", None, None, "User name and password in JAAS syntax."),
    ("sasl.client.callback.handler.class", Kind.CALLABLE, None, "medium", None, None, "What answers SASL's questions."),
    ("sasl.login.callback.handler.class", Kind.CALLABLE, None, "medium", None, None, "What fetches credentials."),
    ("sasl.login.class", Kind.CALLABLE, None, "medium", None, None, "What logs in."),
    ("sasl.login.connect.timeout.ms", Kind.INT, None, "low", 0, None, "How long reaching the identity provider may take."),
    ("sasl.login.read.timeout.ms", Kind.INT, None, "low", 0, None, "How long the identity provider's answer may take."),
    ("sasl.login.retry.backoff.ms", Kind.LONG, 100, "low", 0, None, "The wait before logging in again after a failure."),
    ("sasl.login.retry.backoff.max.ms", Kind.LONG, 10_000, "low", 0, None, "The longest such wait."),
    ("sasl.login.refresh.window.factor", Kind.DOUBLE, 0.8, "low", 0.5, 1.0,
     "The part of a credential's life after which it is refreshed."),
    ("sasl.login.refresh.window.jitter", Kind.DOUBLE, 0.05, "low", 0.0, 0.25,
     "The random part of a credential's life that is added to it."),
    ("sasl.login.refresh.min.period.seconds", Kind.INT, 60, "low", 0, 900, "The least time between two refreshes."),
    ("sasl.login.refresh.buffer.seconds", Kind.INT, 300, "low", 0, 3_600, "How long before its end a credential is refreshed."),
    ("sasl.kerberos.service.name", Kind.STRING, None, "medium", None, None, "The Kerberos principal name of the brokers."),
    ("sasl.kerberos.kinit.cmd", Kind.STRING, "/usr/bin/kinit", "low", None, None, "Where kinit is."),
    ("sasl.kerberos.ticket.renew.window.factor", Kind.DOUBLE, 0.8, "low", None, None,
     "The part of a ticket's life after which it is renewed."),
    ("sasl.kerberos.ticket.renew.jitter", Kind.DOUBLE, 0.05, "low", None, None, "The random part that is added to it."),
    ("sasl.kerberos.min.time.before.relogin", Kind.LONG, 60_000, "low", None, None, "The least time (ms) between two logins."),
    ("sasl.oauthbearer.token.endpoint.url", Kind.STRING, None, "medium", None, None, "Where tokens are issued."),
    ("sasl.oauthbearer.scope", Kind.STRING, None, "medium", None, None, "The scope to ask a token for."),
    ("sasl.oauthbearer.client.credentials.client.id", Kind.STRING, None, "medium", None, None,
     "The client's id at the identity provider."),
    ("sasl.oauthbearer.client.credentials.client.secret", Kind.PASSWORD, None, "medium", None, None,
     "The client's secret at the identity provider."),
    ("sasl.oauthbearer.jwt.retriever.class", Kind.CALLABLE, None, "medium", None, None, "What fetches tokens."),
    ("sasl.oauthbearer.jwt.validator.class", Kind.CALLABLE, None, "medium", None, None, "What checks tokens."),
    ("sasl.oauthbearer.assertion.algorithm", Kind.STRING, "RS256", "medium", None, None, "How an assertion is signed."),
    ("sasl.oauthbearer.assertion.claim.aud", Kind.STRING, None, "medium", None, None, "The assertion's audience."),
    ("sasl.oauthbearer.assertion.claim.exp.seconds", Kind.INT, 300, "low", 0, 86_400, "How long an assertion is valid."),
    ("sasl.oauthbearer.assertion.claim.iss", Kind.STRING, None, "medium", None, None, "The assertion's issuer."),
    ("sasl.oauthbearer.assertion.claim.jti.include", Kind.BOOLEAN, False, "medium", None, None,
     "Whether an assertion has an id of its own."),
    ("sasl.oauthbearer.assertion.claim.nbf.seconds", Kind.INT, 60, "low", 0, 3_600,
     "How long before now an assertion's validity begins."),
    ("sasl.oauthbearer.assertion.claim.sub", Kind.STRING, None, "medium", None, None, "The assertion's subject."),
    ("sasl.oauthbearer.assertion.file", Kind.STRING, None, "medium", None, None, "A file with a finished assertion."),
    ("sasl.oauthbearer.assertion.private.key.file", Kind.STRING, None, "medium", None, None,
     "The key that signs assertions."),
    ("sasl.oauthbearer.assertion.private.key.passphrase", Kind.PASSWORD, None, "medium", None, None,
     "The passphrase of that key."),
    ("sasl.oauthbearer.assertion.template.file", Kind.STRING, None, "medium", None, None,
     "A file with further claims of an assertion."),
    ("sasl.oauthbearer.scope.claim.name", Kind.STRING, "scope", "low", None, None, "What a token calls its scope."),
    ("sasl.oauthbearer.sub.claim.name", Kind.STRING, "sub", "low", None, None, "What a token calls its subject."),
    ("sasl.oauthbearer.jwks.endpoint.url", Kind.STRING, None, "medium", None, None, "Where the issuer's keys are."),
    ("sasl.oauthbearer.jwks.endpoint.refresh.ms", Kind.LONG, 3_600_000, "low", None, None,
     "The time between two looks at the issuer's keys."),
    ("sasl.oauthbearer.jwks.endpoint.retry.backoff.ms", Kind.LONG, 100, "low", None, None,
     "The wait before another look at the issuer's keys after a failure."),
    ("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms", Kind.LONG, 10_000, "low", None, None, "The longest such wait."),
    ("sasl.oauthbearer.clock.skew.seconds", Kind.INT, 30, "low", None, None, "How far clocks may differ."),
    ("sasl.oauthbearer.expected.audience", Kind.LIST, (), "high", None, None, "The audiences to accept in a token."),
    ("sasl.oauthbearer.expected.issuer", Kind.STRING, None, "high", None, None, "The issuer to accept in a token."),
    ("sasl.oauthbearer.header.urlencode", Kind.BOOLEAN, False, "low", None, None,
     "Whether id and secret are URL-encoded for the identity provider (KIP-1025)."),
)  # fmt: skip

SECURITY: Final[tuple[Option, ...]] = (
    Option(
        "security.protocol",
        Kind.STRING,
        "PLAINTEXT",
        "medium",
        "How to speak to brokers: in the clear, under TLS, and with or without SASL.",
        ALL,
        choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        not_yet=("SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    ),
    *(
        Option(name, kind, default, importance, doc, ALL, low, high, status=Status.NOT_YET, instead=_NOT_YET)
        for name, kind, default, importance, low, high, doc in _ROWS
    ),
)

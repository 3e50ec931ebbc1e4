#!/bin/sh
# Guess: logLik() of glmer is log p(y | estimates) by Laplace's method, or by quadrature with nAGQ > 1, to be compared
# by AIC with that of another link, another nAGQ or another package.
# Seen (lme4 1.1-31), beside one-dimensional integrals of the same model at the same parameters by integrate():
#   logit, nAGQ = 1: Laplace's value to 3e-4, which is what the default tolPwrss = 1e-7 leaves;
#   logit, nAGQ = 25: the integral less the log-likelihood of the saturated model, 42 units away on cbpp;
#   probit, nAGQ = 1: the curvature is the expected one, not -d2 log p: 0.04 below Laplace's method, itself 0.02 off;
#   Gamma(log): -332.1 for a model whose log-likelihood is nowhere above -339.8; its standard deviation of the groups,
#   0.53, is not where the maximum is either, 0.62.
# Why it matters here: a LatentLMM is compared with glmer for canonical links only, with nAGQ > 1 after the saturated
#   model is added; for probit and gamma with glmmTMB.
# Debian's packages of R's libraries are unpacked, not installed; R itself must be there.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 "$folder"
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances r-cran-lme4 | grep '^r-cran' | sort -u | grep -v '^r-cran-lme4$')
version=$(apt-cache madison r-cran-lme4 | awk '{print $3}' | grep '^1\.1-31' | head -1)
# shellcheck disable=SC2086
apt-get download -q "r-cran-lme4=$version" $packages >apt.log 2>&1
for package in *.deb; do dpkg -x "$package" root; done
R_LIBS="$folder/root/usr/lib/R/site-library:$folder/root/usr/lib/R/library" Rscript --vanilla - <<'R'
suppressMessages(library(lme4))
cat("lme4", format(packageVersion("lme4")), "\n")
# log of the integral over u ~ N(0, sd^2) of each group, and Laplace's value of it
groups <- function(ld, eta, sd, group) rowSums(sapply(split(seq_along(eta), group), function(i) {
  f <- function(u) vapply(u, function(u) sum(ld(eta[i] + u, i)) + dnorm(u, 0, sd, log = TRUE), 0)
  mode <- optimize(f, c(-8, 8) * sd, maximum = TRUE, tol = 1e-10)$maximum; h <- 1e-3
  curvature <- -(f(mode + h) - 2 * f(mode) + f(mode - h)) / h^2; s <- 1 / sqrt(curvature)
  exact <- integrate(function(u) exp(f(u) - f(mode)), mode - 12 * s, mode + 12 * s, rel.tol = 1e-9)$value
  c(exact = f(mode) + log(exact), laplace = f(mode) + log(2 * pi) / 2 + log(s))
}))
y <- cbpp$incidence; m <- cbpp$size
row <- function(link, nAGQ) {
  fit <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial(link), nAGQ = nAGQ)
  F <- binomial(link)$linkinv; eta <- c(model.matrix(fit) %*% fixef(fit))
  ld <- function(e, i) dbinom(y[i], m[i], F(e), log = TRUE)
  c(glmer = as.numeric(logLik(fit)), groups(ld, eta, getME(fit, "theta"), cbpp$herd))
}
found <- rbind(logit1 = row("logit", 1), logit25 = row("logit", 25), probit1 = row("probit", 1))
tight <- as.numeric(logLik(glmer(
  cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial, control = glmerControl(tolPwrss = 1e-13))))
set.seed(18)
d <- data.frame(group = factor(rep(1:30, each = 6)), x = round(rnorm(180), 3))
d$y <- signif(rgamma(180, shape = 2.5, rate = 2.5 / exp(1 + 0.5 * d$x + rnorm(30, 0, 0.6)[d$group])), 5)
gamma <- function(beta, sd, shape) groups(
  function(e, i) dgamma(d$y[i], shape, rate = shape / exp(e), log = TRUE), beta[1] + beta[2] * d$x, sd, d$group)
fit <- glmer(y ~ x + (1 | group), d, Gamma("log")); sd <- sqrt(VarCorr(fit)$group[1])
best <- suppressWarnings(optim(  # its first step leads to infinite values
  c(fixef(fit), log(sd), -2 * log(sigma(fit))), function(p) -gamma(p[1:2], exp(p[3]), exp(p[4]))["exact"],
  method = "BFGS"))
found <- rbind(found, gamma = c(as.numeric(logLik(fit)), gamma(fixef(fit), sd, sigma(fit)^-2)))
print(round(found, 4))
saturated <- sum(dbinom(y, m, y / m, log = TRUE))
cat("logit, tolPwrss = 1e-13:", format(tight, digits = 9), "\n")
cat("saturated:", saturated, " gamma: highest", -best$value, "sd", exp(best$par[3]), "glmer's", sd, "\n")
stopifnot(
  abs(found["logit1", "glmer"] - found["logit1", "laplace"]) < 1e-3,
  abs(tight - found["logit1", "laplace"]) < 1e-4,
  abs(found["logit25", "glmer"] + saturated - found["logit25", "exact"]) < 1e-4,
  found["probit1", "laplace"] - found["probit1", "glmer"] > 0.03,
  found["gamma", "glmer"] > -best$value + 7, exp(best$par[3]) > sd + 0.05
)
R
echo "as found"

#!/bin/sh
# Guess: a type III test of a factor is about the means of its levels averaged over the other factors, so that two
# formulas of the same model give the same F: y ~ A*B and y ~ A + A:B span the same columns.
# Seen (lmerTest 3.1-3, lme4 1.1-31): the log-likelihoods are equal to all digits, and the F of A is four times as large in
# the first as in the second. There it is the test of A at the first level of B: that A:B contains A is read from the
# table of factors of the terms, where A:B has a 2 in place of a 1 when B has no term of its own.
# Why it matters here: fit.anova() of pm_fastlmm gives the first table for both, and somebody who compares the second
# with lmerTest finds another number.
# Debian's packages of R's libraries are unpacked, not installed; R itself must be there.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 "$folder"
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances r-cran-lmertest | grep '^r-cran' | sort -u | grep -v '^r-cran-lmertest$')
# shellcheck disable=SC2086
apt-get download -q r-cran-lmertest=3.1-3-2 $packages >apt.log 2>&1
for package in *.deb; do dpkg -x "$package" root; done
R_LIBS="$folder/root/usr/lib/R/site-library:$folder/root/usr/lib/R/library" Rscript --vanilla - <<'R'
suppressMessages(library(lmerTest))
cat("lmerTest", format(packageVersion("lmerTest")), "lme4", format(packageVersion("lme4")), "\n")
table <- expand.grid(g = factor(1:12), A = factor(c("a", "b", "c")), B = factor(c("u", "v")))
table <- table[-seq(3, 72, 7), ]
k <- seq_len(nrow(table))
table$y <- 0.3 * as.numeric(table$A) + 0.5 * (table$B == "v") * as.numeric(table$A) + sin(5 * as.numeric(table$g)) +
  cos(37 * k * k)
crossed <- lmer(y ~ A * B + (1 | g), table)
nested <- lmer(y ~ A + A:B + (1 | g), table)
cat("log-likelihoods", format(c(logLik(crossed), logLik(nested)), digits = 10), "\n")
F <- sapply(list(crossed, nested), function(fit) anova(fit)["A", "F value"])
cat("F of A: y ~ A * B", format(F[1], digits = 4), " y ~ A + A:B", format(F[2], digits = 4), "\n")
at_first <- lmer(y ~ A * B + (1 | g), table)
first <- contest(at_first, rbind(c(0, 1, 0, 0, 0, 0), c(0, 0, 1, 0, 0, 0)))[1, "F value"]
cat("F of A at the first level of B", format(first, digits = 4), "\n")
stopifnot(abs(logLik(crossed) - logLik(nested)) < 1e-6, F[1] > 2 * F[2], abs(first - F[2]) < 1e-4 * F[2])
R
echo "as found"

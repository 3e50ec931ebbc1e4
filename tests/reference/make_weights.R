# Fits with prior weights and offsets by lme4, their fitted values, residuals, leverages and predictions.
# usage: Rscript make_weights.R > weights_lme4.json
suppressMessages(library(lme4))
num <- function(x) paste0("[", paste(formatC(as.numeric(x), digits = 15, format = "g"), collapse = ", "), "]")
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = 0.1, rhoend = 1e-10, maxfun = 1e6))
rows <- c()
for (m in list(
  list("sleepstudy", sleepstudy, "Reaction ~ Days + offset(z) + (Days | Subject)", list(Days = c(0, 4), Subject = c("308", "new"))),
  list("dyestuff", Dyestuff, "Yield ~ 1 + offset(2 * z) + (1 | Batch)", list(Batch = c("A", "new"))),
  list("penicillin", Penicillin, "diameter ~ 1 + (1 | plate) + (1 | sample)", list(plate = c("a", "new"), sample = c("F", "A")))
)) for (REML in c(TRUE, FALSE)) {
  data <- m[[2]]
  i <- seq_len(nrow(data))
  data$w <- 1 + (7 * i) %% 5
  data$z <- round(3 * sin(i), 6)
  fit <- lmer(as.formula(m[[3]]), data, weights = w, REML = REML, control = control)
  v <- as.data.frame(VarCorr(fit))
  new <- data.frame(m[[4]], z = c(1, 2), w = 1)
  rows <- c(rows, sprintf(
    '  {"data": "%s", "formula": "%s", "method": "%s", "software": "lme4 %s", "vcov": %s, "beta": %s, "beta_se": %s, "loglik": %s, "fitted": %s, "residuals": %s, "scaled": %s, "leverage": %s, "population": %s, "predicted": %s}',
    m[[1]], m[[3]], if (REML) "REML" else "ML", packageVersion("lme4"), num(v$vcov), num(fixef(fit)),
    num(sqrt(diag(as.matrix(vcov(fit))))), formatC(as.numeric(logLik(fit)), digits = 15, format = "g"),
    num(fitted(fit)[1:6]), num(residuals(fit)[1:6]), num(residuals(fit, "pearson", scaled = TRUE)[1:6]),
    num(hatvalues(fit)[1:6]), num(predict(fit, new, re.form = NA)), num(predict(fit, new, allow.new.levels = TRUE))))
}
# pbkrtest takes V without the weights, so that its Kenward-Roger tests are asked of rows times √w
suppressMessages(library(lmerTest))
data <- sleepstudy
i <- seq_len(nrow(data))
data$w <- 1 + (7 * i) %% 5
for (x in c("Reaction", "Days", "w")) data[[paste0(x, "_")]] <- sqrt(data$w) * (if (x == "w") 1 else data[[x]])
fit <- lmer(Reaction ~ Days + (1 | Subject), data, weights = w, control = control)
scaled <- lmer(Reaction_ ~ 0 + w_ + Days_ + (0 + w_ | Subject), data, control = control)
kr <- coef(summary(scaled, ddf = "Kenward-Roger"))
rows <- c(rows, sprintf(
  '  {"data": "sleepstudy", "formula": "Reaction ~ Days + (1 | Subject)", "software": "lmerTest %s, pbkrtest %s", "satterthwaite": %s, "kenward_roger": %s, "kenward_roger_se": %s}',
  packageVersion("lmerTest"), packageVersion("pbkrtest"), num(coef(summary(fit))[, "df"]), num(kr[, "df"]), num(kr[, "Std. Error"])))
cat("[\n", paste(rows, collapse = ",\n"), "\n]\n", sep = "")

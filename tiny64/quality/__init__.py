"""The emoji benchmark: translations of test subjects, against baselines and with parts left out."""

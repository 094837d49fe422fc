output "bucket" {
  description = "Name of the store's bucket."
  value       = aws_s3_bucket.store.id
}

output "key_arn" {
  description = "Key that encrypts the store."
  value       = aws_kms_key.store.arn
}

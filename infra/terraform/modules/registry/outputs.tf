output "repositories" {
  description = "Image -> where it is pushed to and pulled from."
  value       = { for image, repository in aws_ecr_repository.image : image => repository.repository_url }
}

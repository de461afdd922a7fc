"""What `kelip init` finds out about a lab's data: files, columns, languages, sizes of images, broken items."""
